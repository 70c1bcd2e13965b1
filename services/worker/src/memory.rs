//! How much memory this process takes, where the operating system tells (Linux).

/// What the process takes: a page shared by N processes counts 1/N in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) pss_bytes: u64,
    pub(crate) file_backed_pss_bytes: u64,
}

/// Returns what the process takes now, `None` where the operating system does not say.
pub(crate) fn usage() -> Option<Usage> {
    parse(&std::fs::read_to_string("/proc/self/smaps_rollup").ok()?)
}

fn parse(rollup: &str) -> Option<Usage> {
    let bytes = |name: &str| {
        let line = rollup
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    };
    let pss_bytes = bytes("Pss")?;
    Some(Usage {
        pss_bytes,
        file_backed_pss_bytes: bytes("Pss_File").unwrap_or(pss_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollup_is_read_by_name() {
        let text = "00400000-7ffd [rollup]\nRss:  900 kB\nPss:  513 kB\nPss_Anon:  13 kB\nPss_File:  500 kB\n";
        let expected = Usage {
            pss_bytes: 513 * 1024,
            file_backed_pss_bytes: 500 * 1024,
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Rss: 1 kB\n"), None);
    }

    #[test]
    fn linux_tells_of_this_process() {
        assert_eq!(
            usage().is_some_and(|usage| usage.pss_bytes > 0),
            cfg!(target_os = "linux")
        );
    }
}
