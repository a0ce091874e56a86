use halo_models::{PackageError, Tokenizer};

/// What a prompt is made of, again and again.
const WORDS: [&str; 9] = [
    "the", "llama", "looks", "for", "its", "red", "ball", "and", "finds",
];

/// A text of about so many tokens with the begin token, and no more. `number` makes its beginning another, so that nothing of what an
/// earlier one left in a KV cache fits.
///
/// # Errors
///
/// The tokenizer fails.
pub fn prompt(tokenizer: &Tokenizer, tokens: usize, number: usize) -> Result<String, PackageError> {
    // A word is a token at least.
    let mut words = tokens;
    loop {
        let begin = number.to_string();
        let text = std::iter::once(begin.as_str())
            .chain(WORDS.into_iter().cycle().take(words))
            .collect::<Vec<_>>()
            .join(" ");
        let count = tokenizer.encode(&text)?.len() + 1;
        if count <= tokens || words == 0 {
            return Ok(text);
        }
        words = (words * tokens / count).min(words - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_models::Package;

    #[test]
    fn prompts_have_the_length_that_was_asked_for_and_other_beginnings() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");
        let package = Package::open(folder.as_ref()).unwrap();
        let tokenizer = package.tokenizer().unwrap();
        for tokens in [8, 100, 400] {
            let count = |number| {
                let text = prompt(&tokenizer, tokens, number).unwrap();
                tokenizer.encode(&text).unwrap().len() + 1
            };
            assert!(
                (tokens * 3 / 4..=tokens).contains(&count(1)),
                "{}",
                count(1)
            );
            assert!(count(12) <= tokens);
        }
        let texts = [1, 2].map(|number| prompt(&tokenizer, 8, number).unwrap());
        assert_ne!(texts[0].chars().next(), texts[1].chars().next());
        assert_eq!(prompt(&tokenizer, 1, 3).unwrap(), "3");
    }
}
