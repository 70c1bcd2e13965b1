//! The salt under which a request's KV blocks are named: the tenant mixed with the client's own `cache_salt`, so that nobody
//! learns from timing what another tenant asked, whatever salts clients choose.

/// Returns the salt of a request's block hashes: the length of `tenant` in bytes as eight bytes, little endian, then `tenant`,
/// then `cache_salt`, both UTF-8. The length keeps the border: no other tenant and salt give the same bytes.
#[must_use]
pub fn block_salt(tenant: &str, cache_salt: &str) -> Vec<u8> {
    let length = u64::try_from(tenant.len()).unwrap_or(u64::MAX);
    [&length.to_le_bytes(), tenant.as_bytes(), cache_salt.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockHasher;

    #[test]
    fn salts_of_different_tenants_never_meet() {
        assert_ne!(block_salt("a", "bc"), block_salt("ab", "c"));
        assert_ne!(block_salt("a", ""), block_salt("", "a"));
    }

    /// Made independently with Python's struct and hashlib.
    #[test]
    fn salt_and_first_block_give_the_test_vectors() {
        let salt = block_salt("default", "mine");
        assert_eq!(salt, b"\x07\0\0\0\0\0\0\0defaultmine");
        let name = BlockHasher::new(&salt).push(&[1, 2, 3, 4]).0;
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "dd81b59cb0276bcac2c59a0c4b2196fe");
    }
}
