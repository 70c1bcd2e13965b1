//! How repacked weights lie in memory.
//!
//! Outputs are taken sixteen at a time, a *panel*; what is missing of the last one is zeros. A panel holds its groups one after
//! another, each as sixteen scales, sixteen biases and the weights in *runs* of 32 inputs. A run is made of 64-byte lines with four
//! bytes for each output:
//!
//! - 8 bits: line `c` has inputs `4c .. 4c + 4`;
//! - 4 bits: line `c` has inputs `8c .. 8c + 4` in the low halves of its bytes and `8c + 4 .. 8c + 8` in the high ones.
//!
//! Everything begins at a multiple of 64 bytes if the first panel does, and one panel is read from front to back.

/// Outputs side by side.
pub const PANEL: usize = 16;

/// Inputs whose activations share a scale.
pub const RUN: usize = 32;

/// Bits of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// 0 to 15.
    Four,
    /// 0 to 255.
    Eight,
}

impl Bits {
    /// Returns the number.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// How scales and biases are stored. Each converts exactly to float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleType {
    /// IEEE binary32.
    Float32,
    /// IEEE binary16.
    Float16,
    /// The upper half of a float32.
    Bfloat16,
}

impl ScaleType {
    /// Returns the bytes of one.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 | Self::Bfloat16 => 2,
        }
    }
}

/// The shape of repacked weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    outputs: usize,
    inputs: usize,
    group: usize,
    bits: Bits,
    scales: ScaleType,
}

impl Layout {
    /// `inputs` of `outputs` rows, `group` of which share a scale. `None` where there is no output, where `group` is none of 32, 64 and
    /// 128, or where it does not divide `inputs`.
    #[must_use]
    pub fn new([outputs, inputs]: [usize; 2], group: usize, bits: Bits, scales: ScaleType) -> Option<Self> {
        let supported = matches!(group, 32 | 64 | 128) && inputs > 0 && inputs.is_multiple_of(group) && outputs > 0;
        supported.then_some(Self {
            outputs,
            inputs,
            group,
            bits,
            scales,
        })
    }

    /// Returns the number of outputs.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the number of inputs.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the inputs that share a scale.
    #[must_use]
    pub fn group(&self) -> usize {
        self.group
    }

    /// Returns the bits of a weight.
    #[must_use]
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Returns how scales are stored.
    #[must_use]
    pub fn scales(&self) -> ScaleType {
        self.scales
    }

    /// Returns the number of panels.
    #[must_use]
    pub fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Returns the bytes of one panel.
    #[must_use]
    pub fn panel_bytes(&self) -> usize {
        self.inputs / self.group * self.group_bytes()
    }

    /// Returns the bytes of all panels.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    pub(super) fn group_bytes(&self) -> usize {
        2 * PANEL * self.scales.bytes() + self.group / RUN * self.run_bytes()
    }

    pub(super) fn run_bytes(&self) -> usize {
        PANEL * RUN * self.bits.count() / 8
    }
}
