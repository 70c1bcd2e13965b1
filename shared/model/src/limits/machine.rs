//! How much memory there is: the machine's, or what a control group or a GPU leaves of it.

use std::fs;
use std::path::Path;

use super::device;
use crate::fingerprint::Backend;

/// Memory that the backend computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MachineMemory {
    /// All of it, in bytes.
    pub(crate) total: u64,
    /// What is free or can be reclaimed at once.
    pub(crate) available: u64,
}

impl MachineMemory {
    /// `None` where the system does not tell.
    pub(crate) fn read(backend: Backend) -> Option<Self> {
        match backend {
            Backend::Cpu if cfg!(target_os = "linux") => linux(Path::new("/")),
            // Mac OS counts most of its memory as used for files; a half stands for what can be had.
            Backend::Cpu => device::size("memory_size").map(|total| Self {
                total,
                available: total / 2,
            }),
            Backend::Metal => device::size("max_recommended_working_set_size").map(Self::unused),
            Backend::Cuda => Some(Self {
                total: device::size("total_memory")?,
                available: device::size("free_memory").or_else(|| device::size("total_memory"))?,
            }),
        }
    }

    fn unused(total: u64) -> Self {
        Self {
            total,
            available: total,
        }
    }

    fn within(self, other: Self) -> Self {
        Self {
            total: self.total.min(other.total),
            available: self.available.min(other.available),
        }
    }
}

/// `root` has `proc` and `sys`.
fn linux(root: &Path) -> Option<MachineMemory> {
    let mut memory = meminfo(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let version = match controllers {
            "" => &VERSION_2,
            "memory" => &VERSION_1,
            _ => continue,
        };
        let base = root.join(version.base);
        // Every ancestor limits too. Inside a container the path may be one of the host: then only the root is there.
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            if let Some(limit) = version.limit(&base.join(folder)) {
                memory = memory.within(limit);
            }
        }
    }
    Some(memory)
}

fn meminfo(text: &str) -> Option<MachineMemory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim_start_matches(':').split_whitespace().next()?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(MachineMemory {
        total: bytes("MemTotal")?,
        available: bytes("MemAvailable")?,
    })
}

/// The files of a control group.
struct Version {
    base: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Pages of files that nobody needs now, in `memory.stat`: counted as used, but given up first.
    reclaimable: &'static str,
}

const VERSION_1: Version = Version {
    base: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

const VERSION_2: Version = Version {
    base: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    reclaimable: "inactive_file",
};

impl Version {
    /// `None` where the group sets no limit.
    fn limit(&self, folder: &Path) -> Option<MachineMemory> {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let total = number(self.limit)?;
        let reclaimable = read("memory.stat").and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix(self.reclaimable))?;
            line.trim().parse::<u64>().ok()
        });
        let used = number(self.used)?.saturating_sub(reclaimable.unwrap_or(0));
        Some(MachineMemory {
            total,
            available: total.saturating_sub(used),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n";

    fn machine(files: &[(&str, &str)]) -> Option<MachineMemory> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        linux(root.path())
    }

    fn memory(total: u64, available: u64) -> Option<MachineMemory> {
        Some(MachineMemory { total, available })
    }

    #[test]
    fn without_control_groups_the_machines_memory_counts() {
        assert_eq!(machine(&[("proc/meminfo", MEMINFO)]), memory(1_024_000, 614_400));
        assert_eq!(machine(&[("proc/meminfo", "MemTotal: 5 kB")]), None);
        assert_eq!(machine(&[]), None);
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "1:cpu:/a/b\n0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "500000\n"),
            ("sys/fs/cgroup/a/memory.current", "300000\n"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 1\ninactive_file 50000\nactive_file 7\n",
            ),
        ];
        assert_eq!(machine(&files), memory(500_000, 250_000));
    }

    #[test]
    fn a_container_that_sees_only_its_root_is_limited_too() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:memory:/docker/0123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n"),
        ];
        assert_eq!(machine(&files), memory(400_000, 0));
    }

    #[test]
    fn version_1_says_no_limit_with_a_huge_number() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n"),
        ];
        assert_eq!(machine(&files), memory(1_024_000, 614_400));
    }
}
