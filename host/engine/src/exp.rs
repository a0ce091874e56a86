/// `e` to the power of `x`, which is at most 0, to within two units in the last place; 0 below -87.
///
/// The standard library's is a call that cannot be made for several values at once. This is arithmetic only, after Cephes' `expf`:
/// `x = n ln 2 + r`, and a polynomial for the small rest `r`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1f32.to_bits()));
    if x < -87.0 {
        0.0
    } else {
        (p * r * r + r + 1.0) * power
    }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn agrees_with_the_standard_library() {
        for i in 0..870_000 {
            let x = -(i as f32) / 10_000.0;
            let (found, expected) = (exp(x), x.exp());
            assert!(
                (found - expected).abs() <= expected * 2.5e-7,
                "{x}: {found} for {expected}"
            );
        }
        assert_eq!([-87.5, -1e30, f32::NEG_INFINITY].map(exp), [0.0; 3]);
        assert!(exp(f32::NAN).is_nan());
    }
}
