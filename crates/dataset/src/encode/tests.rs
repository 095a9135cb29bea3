#![allow(clippy::unwrap_used)]
use super::*;
use crate::chat::Role;
use crate::tokenizer::tests::byte_tokenizer;

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const MARKED: &str = "{%- for message in messages %}\n    {%- if message.role == 'assistant' %}\n        {{- '<|im_start|>assistant\n' }}\n        {%- generation %}\n            {{- message.content + '<|im_end|>' }}\n        {%- endgeneration %}\n        {{- '\n' }}\n    {%- else %}\n        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n    {%- endif %}\n{%- endfor %}";

fn encoder(template: &str) -> Encoder {
    let template = ChatTemplate::new(template, Some("<s>"), Some("</s>")).unwrap();
    Encoder::new(byte_tokenizer(), Some(template))
}

fn learnt(encoder: &Encoder, example: &Example) -> String {
    let sequence = encoder.encode(example).unwrap();
    let pairs = sequence.tokens.iter().zip(&sequence.supervised);
    let ids: Vec<u32> = pairs
        .filter(|(_, supervised)| **supervised)
        .map(|(id, _)| *id)
        .collect();
    encoder.tokenizer().decode(&ids, false).unwrap()
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, "Hello, Zoë"),
        Message::new(Role::Assistant, "Hi — né?"),
        Message::new(Role::User, "Bye"),
        Message::new(Role::Assistant, "Ciao"),
    ]
}

fn chat(messages: Vec<Message>) -> Example {
    Example::Chat {
        messages,
        tools: None,
    }
}

#[test]
fn differences_hold_the_end_of_turn() {
    let encoder = encoder(CHATML);
    assert_eq!(
        learnt(&encoder, &chat(conversation())),
        "Hi — né?<|im_end|>\nCiao<|im_end|>\n"
    );
}

/// As Phi-3 does it: the end token stands behind the last message only.
#[test]
fn an_end_token_behind_the_conversation_is_not_history() {
    let closing = format!("{CHATML}{{% if not add_generation_prompt %}}{{{{ eos_token }}}}{{% endif %}}");
    assert_eq!(
        learnt(&encoder(&closing), &chat(conversation())),
        "Hi — né?<|im_end|>\nCiao<|im_end|>\n</s>"
    );
}

#[test]
fn weight_zero_is_not_learnt() {
    for (template, wanted) in [(CHATML, "Ciao<|im_end|>\n"), (MARKED, "Ciao<|im_end|>")] {
        let mut messages = conversation();
        messages[2].weight = 0.0;
        assert_eq!(learnt(&encoder(template), &chat(messages)), wanted);
    }
}

#[test]
fn generation_tags_are_obeyed() {
    let encoder = encoder(MARKED);
    assert_eq!(
        learnt(&encoder, &chat(conversation())),
        "Hi — né?<|im_end|>Ciao<|im_end|>"
    );
    let mut messages = conversation();
    messages[1].content = "\u{FDD0}odd\u{FDD1}".to_owned();
    assert_eq!(
        learnt(&encoder, &chat(messages)),
        "Hi — né?<|im_end|>Ciao<|im_end|>"
    );
}

#[test]
fn both_ways_render_the_same_text() {
    let text = |template| {
        let sequence = encoder(template).encode(&chat(conversation())).unwrap();
        byte_tokenizer().decode(&sequence.tokens, false).unwrap()
    };
    assert_eq!(text(CHATML), text(MARKED));
}

#[test]
fn completion_and_text_end_with_the_end_token() {
    let encoder = encoder(CHATML);
    let completion = Example::Completion {
        prompt: "2+2=".to_owned(),
        completion: "4".to_owned(),
    };
    assert_eq!(learnt(&encoder, &completion), "4</s>");
    let text = Example::Text {
        text: "abc</s>".to_owned(),
    };
    assert_eq!(learnt(&encoder, &text), "abc</s>");
    assert_eq!(encoder.encode(&text).unwrap().targets(), 3);
}

#[test]
fn batch_equals_one_by_one() {
    let encoder = encoder(CHATML);
    let examples = [
        chat(conversation()),
        Example::Text { text: "t".to_owned() },
        chat(conversation()[..3].to_vec()),
    ];
    let batch = encoder.encode_batch(&examples).unwrap();
    for (example, sequence) in examples.iter().zip(batch) {
        assert_eq!(encoder.encode(example).unwrap(), sequence);
    }
}

#[test]
fn a_prompt_that_opens_a_thought() {
    let template = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>' }}{% endif");
    assert_eq!(
        learnt(&encoder(&template), &chat(conversation()[..3].to_vec())),
        "Hi — né?<|im_end|>\n"
    );
}

#[test]
fn templates_that_cannot_be_masked_say_so() {
    let rewriting = "{% for m in messages %}{{ m.role }}:{% if loop.last %}!{% endif %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let error = encoder(rewriting).encode(&chat(conversation())).unwrap_err();
    assert!(
        matches!(error, EncodeError::RewritesHistory { index: 2 }),
        "{error}"
    );
    let refusing = "{{ raise_exception('only one turn') }}";
    let error = encoder(refusing).encode(&chat(conversation())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the chat template refuses the conversation: only one turn"
    );
}

/// The learnt text in runs of one weight.
fn weighed(encoder: &Encoder, example: &Example) -> Vec<(String, f32)> {
    let sequence = encoder.encode(example).unwrap();
    let mut runs: Vec<(Vec<u32>, f32)> = Vec::new();
    let mut previous = 0.0;
    for (token, weight) in sequence.tokens.iter().zip(sequence.weights()) {
        match runs.last_mut() {
            Some((tokens, _)) if weight > 0.0 && weight == previous => tokens.push(*token),
            _ if weight > 0.0 => runs.push((vec![*token], weight)),
            _ => {}
        }
        previous = weight;
    }
    runs.into_iter()
        .map(|(tokens, weight)| (encoder.tokenizer().decode(&tokens, false).unwrap(), weight))
        .collect()
}

fn runs(wanted: &[(&str, f32)]) -> Vec<(String, f32)> {
    wanted
        .iter()
        .map(|(text, weight)| ((*text).to_owned(), *weight))
        .collect()
}

#[test]
fn weights_between_are_kept() {
    for (template, end) in [(CHATML, "\n"), (MARKED, "")] {
        let mut messages = conversation();
        messages[2].weight = 0.25;
        let first = format!("Hi — né?<|im_end|>{end}");
        let last = format!("Ciao<|im_end|>{end}");
        assert_eq!(
            weighed(&encoder(template), &chat(messages.clone())),
            runs(&[(&first, 0.25), (&last, 1.0)])
        );
        messages[4].weight = 0.25;
        assert_eq!(
            weighed(&encoder(template), &chat(messages)),
            runs(&[(&first, 0.25), (&last, 0.25)])
        );
    }
}

#[test]
fn marks_of_another_number_take_one_weight_only() {
    let last_only = MARKED.replace(
        "message.role == 'assistant' %}",
        "message.role == 'assistant' and loop.last %}",
    );
    let encoder = encoder(&last_only);
    let mut messages = conversation();
    messages[2].weight = 0.5;
    let error = encoder.encode(&chat(messages.clone())).unwrap_err();
    assert!(
        matches!(
            error,
            EncodeError::MarksDiffer {
                marked: 1,
                messages: 2
            }
        ),
        "{error}"
    );
    messages[4].weight = 0.5;
    assert_eq!(
        weighed(&encoder, &chat(messages)),
        runs(&[("Ciao<|im_end|>", 0.5)])
    );
}

#[test]
fn train_on_inputs_learns_everything() {
    for template in [CHATML, MARKED] {
        let encoder = encoder(template).train_on_inputs(true);
        let sequence = encoder.encode(&chat(conversation())).unwrap();
        assert!(sequence.supervised.iter().all(|supervised| *supervised));
        assert!(sequence.fractions.is_empty());
        assert_eq!(sequence.targets(), sequence.tokens.len() - 1);
    }
    let completion = Example::Completion {
        prompt: "2+2=".to_owned(),
        completion: "4".to_owned(),
    };
    assert_eq!(
        learnt(&encoder(CHATML).train_on_inputs(true), &completion),
        "2+2=4</s>"
    );
}

#[test]
fn train_on_inputs_keeps_the_weights_of_messages() {
    for (template, added, kept) in [(CHATML, "", "\n"), (MARKED, "\n", "")] {
        let encoder = encoder(template).train_on_inputs(true);
        let mut messages = conversation();
        messages[1].weight = 0.0;
        messages[2].weight = 0.0;
        messages[4].weight = 0.5;
        assert_eq!(
            weighed(&encoder, &chat(messages)),
            runs(
                &[
                    ("<|im_start|>system\nBe brief.<|im_end|>\n", 1.0),
                    ("<|im_start|>assistant\n", 1.0),
                    (
                        &format!("{added}<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"),
                        1.0
                    ),
                    (&format!("Ciao<|im_end|>{kept}"), 0.5),
                ][..]
            )
            .into_iter()
            .chain((!added.is_empty()).then(|| (added.to_owned(), 1.0)))
            .collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_weight_that_has_no_place_is_refused_not_learnt() {
    let rewriting =
        "{% for m in messages %}{{ m.role }}:{% if loop.last %}!{% endif %}{{ m.content }}\n{% endfor %}";
    let encoder = encoder(rewriting).train_on_inputs(true);
    assert!(encoder.encode(&chat(conversation())).is_ok());
    let mut messages = conversation();
    messages[1].weight = 0.0;
    let error = encoder.encode(&chat(messages)).unwrap_err();
    assert!(
        matches!(error, EncodeError::RewritesHistory { index: 1 }),
        "{error}"
    );
}
