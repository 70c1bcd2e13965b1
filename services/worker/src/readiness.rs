//! Where the worker stands between its start and its end, for everyone who waits for that.

use std::sync::Arc;

use tokio::sync::watch;

use crate::profile::Profile;

/// Where the worker stands.
#[derive(Debug, Clone)]
pub(crate) enum Readiness {
    /// The model is loading.
    Loading,
    /// Sequences are welcome.
    Ready(Arc<Profile>),
    /// What runs is finished, nothing more is admitted.
    Draining,
    /// The engine finished all it had and ended.
    Drained,
    /// What the model's folder holds cannot be served, for this reason: trying again will not help.
    NotLoaded(Arc<str>),
    /// The engine broke off, or the machine had no room for the model, for this reason.
    Failed(Arc<str>),
}

/// Returns where to tell and where to subscribe, at [`Readiness::Loading`].
pub(crate) fn channel() -> watch::Sender<Readiness> {
    watch::Sender::new(Readiness::Loading)
}

impl Readiness {
    /// Moves from [`Self::Loading`] to [`Self::Ready`]; returns whether anything changed.
    pub(crate) fn finish_loading(&mut self, profile: Arc<Profile>) -> bool {
        let loading = matches!(self, Self::Loading);
        if loading {
            *self = Self::Ready(profile);
        }
        loading
    }

    /// Moves to [`Self::Draining`] unless the engine has ended; returns whether anything changed.
    pub(crate) fn start_draining(&mut self) -> bool {
        let starts = matches!(self, Self::Ready(_) | Self::Loading);
        if starts {
            *self = Self::Draining;
        }
        starts
    }

    /// Returns whether what still ends was cut off by a drain's deadline.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self, Self::Draining | Self::Drained)
    }

    /// Returns whether the engine has ended.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Drained | Self::NotLoaded(_) | Self::Failed(_))
    }
}
