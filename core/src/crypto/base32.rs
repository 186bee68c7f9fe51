//! Crockford's Base32: digits and letters without I, L, O and U. <https://www.crockford.com/base32.html>

/// The 32 symbols, by value.
pub const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The value of a symbol, after [`fold`].
pub fn value(symbol: char) -> Option<u8> {
    let folded = fold(symbol);
    SYMBOLS.iter().position(|&s| char::from(s) == folded).and_then(|index| u8::try_from(index).ok())
}

/// Converts to upper case and replaces look-alikes: I and L become 1, O becomes 0.
pub fn fold(symbol: char) -> char {
    match symbol.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    }
}

/// The symbols for values below 32.
pub fn text(values: &[u8]) -> String {
    values.iter().map(|&v| char::from(SYMBOLS[usize::from(v & 31)])).collect()
}
