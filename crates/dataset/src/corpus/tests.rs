#![allow(clippy::unwrap_used)]
use super::*;
use crate::tokenizer::tests::byte_tokenizer;

fn read(file: &str, most: usize, over_long: OverLong) -> Result<(Corpus, CorpusReport), CorpusError> {
    let encoder = Encoder::new(byte_tokenizer(), None);
    let limit = LengthLimit { most, over_long };
    Corpus::read(file.as_bytes(), &encoder, limit, std::env::temp_dir())
}

fn at(corpus: &Corpus, index: usize) -> StoredSequence<'_> {
    corpus.sequence(index).unwrap()
}

const FILE: &str = "{\"text\":\"abc\"}\n\n{\"prompt\":\"0123456789\",\"completion\":\"x\"}\n{\"text\":\"d\"}";

#[test]
fn reads_tokens_and_masks() {
    let (corpus, report) = read(FILE, 100, OverLong::Fail).unwrap();
    assert_eq!(
        (corpus.len(), corpus.token_count(), report.lines),
        (3, 4 + 12 + 2, 3)
    );
    assert_eq!([0, 1, 2].map(|index| at(&corpus, index).targets()), [3, 2, 1]);
    assert_eq!(at(&corpus, 2).tokens().last(), Some(257));
    assert_eq!(corpus.greatest_token(), Some(257));
    let digest = corpus.digest().unwrap();
    assert_ne!(digest, corpus.into_rows(2).digest().unwrap());
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
    Corpus::read(file.as_bytes(), &encoder, limit, std::env::temp_dir())
        .unwrap()
        .0
}

#[test]
fn weights_cost_memory_only_where_they_are_fractions() {
    let whole = read_chat(["1", "1.0"]);
    assert!(whole.fractions.is_empty());
    assert!(
        at(&whole, 1)
            .weights()
            .all(|weight| weight == 0.0 || weight == 1.0)
    );
    let corpus = read_chat(["1", "0.3"]);
    assert_eq!(corpus.fractions.len(), 1, "one run for the four tokens");
    let last = |index: usize| -> Vec<f32> {
        let sequence = at(&corpus, index);
        sequence.weights().skip(sequence.len() - 5).collect()
    };
    assert_eq!(last(0), [0.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(last(1), [0.0, 0.3, 0.3, 0.3, 0.3]);
    for index in 0..2 {
        let sequence = at(&corpus, index);
        assert_eq!(sequence.weights().len(), corpus.length(index));
        assert_eq!(sequence.targets(), 4);
        let supervised = sequence.weights().map(|weight| weight > 0.0);
        assert!(supervised.eq(sequence.supervised()));
    }
}

#[test]
fn the_digest_covers_weights() {
    let digests = ["1", "0.3", "0.300001"].map(|weight| read_chat(["1", weight]).digest().unwrap());
    assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    assert_eq!(digests[1], read_chat(["1.0", "3e-1"]).digest().unwrap());
}

fn all_weights(corpus: &Corpus) -> Vec<f32> {
    let weights = |index| at(corpus, index).weights().collect::<Vec<f32>>();
    (0..corpus.len()).flat_map(weights).collect()
}

#[test]
fn rows_keep_weights_in_their_places() {
    let corpus = read_chat(["0.5", "0.25"]);
    let wanted = all_weights(&corpus);
    let rows = corpus.into_rows(7);
    let found = all_weights(&rows);
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

/// Sequences of 1 to 40 tokens; every seventh has weights.
fn sequences(count: usize) -> impl Iterator<Item = Sequence> {
    (0..count).map(|index| {
        let length = 1 + index * 31 % 40;
        let fraction = Fraction {
            places: 0..length,
            weight: 0.5,
        };
        Sequence {
            tokens: (0..length).map(|place| (index * 7 + place) as u32).collect(),
            supervised: (0..length).map(|place| index % 7 == 0 || place % 3 > 0).collect(),
            fractions: (index % 7 == 0).then_some(fraction).into_iter().collect(),
        }
    })
}

fn filled(most_in_memory: usize, folder: &std::path::Path) -> Corpus {
    let mut corpus = Corpus::in_folder(folder.to_owned());
    corpus.tokens = TokenStore::new(folder.to_owned()).keeping(most_in_memory);
    for sequence in sequences(500) {
        corpus.push(&sequence).unwrap();
    }
    corpus
}

fn contents(corpus: &Corpus) -> Vec<(Vec<u32>, Vec<bool>, Vec<f32>)> {
    let content = |index| {
        let sequence = at(corpus, index);
        (
            sequence.tokens().collect(),
            sequence.supervised().collect(),
            sequence.weights().collect(),
        )
    };
    (0..corpus.len()).map(content).collect()
}

#[test]
fn a_file_gives_back_what_memory_would() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |corpus: Corpus| contents(&corpus.into_rows(33));
    let in_memory = filled(usize::MAX, folder.path());
    for most in [0, 1, 100, 9_999] {
        let filed = filled(most, folder.path());
        assert!(
            filed.resident_bytes() < in_memory.resident_bytes(),
            "{most}: nothing is in the file"
        );
        assert_eq!(contents(&filed), contents(&in_memory), "{most}");
        assert_eq!(filed.digest().unwrap(), in_memory.digest().unwrap());
        assert_eq!(filed.greatest_token(), in_memory.greatest_token());
        assert_eq!(
            rows(filed),
            rows(filled(usize::MAX, folder.path())),
            "{most}: rows that begin in the file and end in memory"
        );
    }
    let wanted: Vec<Vec<u32>> = sequences(500).map(|sequence| sequence.tokens).collect();
    let found: Vec<Vec<u32>> = contents(&in_memory)
        .into_iter()
        .map(|(tokens, ..)| tokens)
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn memory_does_not_grow_with_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut corpus = Corpus::in_folder(folder.path().to_owned());
    let sequence = Sequence {
        tokens: vec![7; 1000],
        supervised: vec![true; 1000],
        fractions: Vec::new(),
    };
    let of_sequences = |corpus: &Corpus| size_of::<usize>() * corpus.len();
    let most = 4 * token_store::MOST_IN_MEMORY;
    while corpus.token_count() < 3 * token_store::MOST_IN_MEMORY {
        corpus.push(&sequence).unwrap();
        assert!(corpus.resident_bytes() <= most + of_sequences(&corpus));
    }
    assert!(most < 4 * corpus.token_count());
    assert_eq!(at(&corpus, corpus.len() / 2).tokens().len(), 1000);
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 0, "the file has no name");
}

#[test]
fn a_small_corpus_needs_no_folder() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let no_folder = file.path().join("below-a-file");
    let mut corpus = Corpus::in_folder(no_folder.clone());
    for sequence in sequences(500) {
        corpus.push(&sequence).unwrap();
    }
    corpus.tokens = TokenStore::new(no_folder.clone()).keeping(0);
    let error = corpus.push(&sequences(1).next().unwrap()).unwrap_err();
    assert!(
        matches!(&error, CorpusError::NoRoom { folder, .. } if *folder == no_folder),
        "{error}"
    );
}
