#![allow(clippy::unwrap_used)]
use super::*;
use crate::tokenizer::tests::byte_tokenizer;

fn read(file: &str, most: usize, over_long: OverLong) -> Result<(Corpus, CorpusReport), CorpusError> {
    let encoder = Encoder::new(byte_tokenizer(), None);
    Corpus::read(file.as_bytes(), &encoder, LengthLimit { most, over_long })
}

const FILE: &str = "{\"text\":\"abc\"}\n\n{\"prompt\":\"0123456789\",\"completion\":\"x\"}\n{\"text\":\"d\"}";

#[test]
fn reads_tokens_and_masks() {
    let (corpus, report) = read(FILE, 100, OverLong::Fail).unwrap();
    assert_eq!(
        (corpus.len(), corpus.token_count(), report.lines),
        (3, 4 + 12 + 2, 3)
    );
    assert_eq!(
        (corpus.targets(0), corpus.targets(1), corpus.targets(2)),
        (3, 2, 1)
    );
    assert_eq!(corpus.tokens(2).last(), Some(257));
    assert_eq!(corpus.greatest_token(), Some(257));
    assert_ne!(corpus.digest(), corpus.clone().into_rows(2).digest());
}

#[test]
fn over_long_examples() {
    let (corpus, report) = read(FILE, 4, OverLong::Truncate).unwrap();
    assert_eq!((corpus.len(), report.truncated, report.unsupervised), (2, 1, 1));
    let (corpus, report) = read(FILE, 4, OverLong::Drop).unwrap();
    assert_eq!((corpus.len(), report.dropped, report.unsupervised), (2, 1, 0));
    let error = read(FILE, 4, OverLong::Fail).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 3 of the data has 12 tokens; the most is 4"
    );
}

#[test]
fn bad_lines_are_named() {
    let error = read("{\"text\":\"a\"}\n{\"txt\":1}", 9, OverLong::Fail).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("line 2 of the data: `txt` is not a field")
    );
    let chat =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}";
    let error = read(chat, 9, OverLong::Fail).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("line 1 of the data: the base model has no chat template"),
        "{error}"
    );
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn read_chat(weights: [&str; 2]) -> Corpus {
    let template = crate::ChatTemplate::new(CHATML, None, None).unwrap();
    let encoder = Encoder::new(byte_tokenizer(), Some(template));
    let line = |weight: &str| {
        format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"u\"}},{{\"role\":\"assistant\",\"content\":\"ab\",\"weight\":{weight}}}]}}\n"
        )
    };
    let limit = LengthLimit {
        most: 100,
        over_long: OverLong::Fail,
    };
    let file = weights.map(line).concat();
    Corpus::read(file.as_bytes(), &encoder, limit).unwrap().0
}

#[test]
fn weights_cost_memory_only_where_they_are_fractions() {
    let whole = read_chat(["1", "1.0"]);
    assert!(whole.fractions.is_empty());
    assert!(whole.weights(1).all(|weight| weight == 0.0 || weight == 1.0));
    let corpus = read_chat(["1", "0.3"]);
    assert_eq!(corpus.fractions.len(), 1, "one run for the four tokens");
    let last = |index: usize| -> Vec<f32> { corpus.weights(index).skip(corpus.length(index) - 5).collect() };
    assert_eq!(last(0), [0.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(last(1), [0.0, 0.3, 0.3, 0.3, 0.3]);
    for index in 0..2 {
        assert_eq!(corpus.weights(index).len(), corpus.length(index));
        assert_eq!(corpus.targets(index), 4);
        let supervised = corpus.weights(index).map(|weight| weight > 0.0);
        assert!(supervised.eq(corpus.supervised(index)));
    }
}

#[test]
fn the_digest_covers_weights() {
    let digests = ["1", "0.3", "0.300001"].map(|weight| read_chat(["1", weight]).digest());
    assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    assert_eq!(digests[1], read_chat(["1.0", "3e-1"]).digest());
}

#[test]
fn rows_keep_weights_in_their_places() {
    let corpus = read_chat(["0.5", "0.25"]);
    let wanted: Vec<f32> = (0..2).flat_map(|index| corpus.weights(index)).collect();
    let rows = corpus.into_rows(7);
    let found: Vec<f32> = (0..rows.len()).flat_map(|row| rows.weights(row)).collect();
    assert_eq!(found, wanted[..found.len()]);
    assert!(found.len() < wanted.len(), "the last run is cut");
    assert!(rows.fractions.last().unwrap().places.end <= found.len());
}

#[test]
fn rows_have_one_length() {
    let (corpus, _) = read(FILE, 100, OverLong::Fail).unwrap();
    let rows = corpus.into_rows(5);
    assert_eq!((rows.len(), rows.length(2)), (3, 5));
}

#[test]
fn split_is_a_pure_function_of_the_seed() {
    let file = "{\"text\":\"a\"}\n".repeat(40);
    let (corpus, _) = read(&file, 9, OverLong::Fail).unwrap();
    let (train, held_out) = corpus.split(0.1, 7);
    assert_eq!((train.len(), held_out.len()), (36, 4));
    assert_eq!(corpus.split(0.1, 7).1, held_out);
    assert_ne!(corpus.split(0.1, 8).1, held_out);
    assert!(train.is_sorted() && held_out.is_sorted());
    assert_eq!(corpus.split(0.001, 7).1.len(), 1);
    assert_eq!(corpus.split(0.0, 7).1.len(), 0);
}
