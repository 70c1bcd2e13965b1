//! How many requests a tenant may have in flight. A permit is held by the answer's stream and given back when that is
//! dropped, however it ends.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::error::Error;
use crate::sequence::Tenant;

/// Permits of all tenants. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    limit: usize,
    in_flight: Arc<DashMap<Tenant, usize>>,
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct Permit {
    tenant: Tenant,
    in_flight: Arc<DashMap<Tenant, usize>>,
}

impl Admission {
    /// Makes an admission that lets each tenant have `limit` requests in flight.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            in_flight: Arc::default(),
        }
    }

    /// Takes a permit; never waits.
    ///
    /// # Errors
    /// [`Error::TenantLimit`] when the tenant has as many as it may.
    pub(crate) fn admit(&self, tenant: &Tenant) -> Result<Permit, Error> {
        let mut count = self.in_flight.entry(tenant.clone()).or_insert(0);
        if *count >= self.limit {
            return Err(Error::TenantLimit {
                tenant: tenant.0.to_string(),
                limit: self.limit,
            });
        }
        *count += 1;
        Ok(Permit {
            tenant: tenant.clone(),
            in_flight: self.in_flight.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.in_flight.entry(self.tenant.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant(name.into())
    }

    #[test]
    fn a_tenant_over_its_limit_is_refused_and_others_are_not() {
        let admission = Admission::new(2);
        let _held = [
            admission.admit(&tenant("a")).unwrap(),
            admission.admit(&tenant("a")).unwrap(),
        ];
        assert!(matches!(
            admission.admit(&tenant("a")),
            Err(Error::TenantLimit { limit: 2, .. })
        ));
        assert!(admission.admit(&tenant("b")).is_ok());
    }

    #[test]
    fn dropped_permits_come_back_and_idle_tenants_are_forgotten() {
        let admission = Admission::new(1);
        for _ in 0..100 {
            drop(admission.admit(&tenant("a")).unwrap());
        }
        assert!(admission.in_flight.is_empty());
    }
}
