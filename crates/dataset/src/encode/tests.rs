#![allow(clippy::unwrap_used)]
use super::*;
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

#[test]
fn weight_zero_is_not_learnt() {
    for (template, wanted) in [(CHATML, "Ciao<|im_end|>\n"), (MARKED, "Ciao<|im_end|>")] {
        let mut messages = conversation();
        messages[2].trained = false;
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
