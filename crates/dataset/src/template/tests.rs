#![allow(clippy::unwrap_used)]
use super::*;
use crate::chat::Role;

fn render(source: &str) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(source, Some("<s>"), Some("</s>"))?;
    let messages = [
        Message::new(Role::User, "  a < b & 'c'  "),
        Message::new(Role::Assistant, "é"),
    ];
    let tools = serde_json::json!([{"name": "f", "x": 1.0, "ü": [], "o": {}}]);
    template
        .render_as_given(&messages, Some(&tools), true)
        .map(|rendered| rendered.text)
}

#[test]
fn renders_as_hugging_face_does() {
    let table = [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ messages[0]['content'] | trim }}", "a < b & 'c'"),
        (
            "{{ messages[0].content.strip() }}|{{ messages | length }}",
            "a < b & 'c'|2",
        ),
        ("{% if add_generation_prompt %}\n  yes\n{% endif %}\n", "  yes\n"),
        ("a\n    {% if true %}\nb\n    {% endif %}\nc\n", "a\nb\nc"),
        ("{{ messages[-1].content }}{{ messages[1:] | length }}", "é1"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.role }}{% endfor %}",
            "user",
        ),
        (
            "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}",
            "2",
        ),
        (
            "{{ tools | tojson }}",
            r#"[{"name": "f", "x": 1.0, "ü": [], "o": {}}]"#,
        ),
        (
            "{{ tools[0] | tojson(indent=2) }}",
            "{\n  \"name\": \"f\",\n  \"x\": 1.0,\n  \"ü\": [],\n  \"o\": {}\n}",
        ),
        ("{{ messages[0].content | tojson }}", r#""  a < b & 'c'  ""#),
        (
            "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':')) }}",
            r#"{"b":1,"a":2}"#,
        ),
        (
            "{{ missing is defined }}|{{ missing }}|{{ none is none }}",
            "False||True",
        ),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        (
            "{%- for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}x{% endfor %}",
            "x",
        ),
    ];
    for (source, wanted) in table {
        match render(source) {
            Ok(text) => assert_eq!(text, wanted, "{source}"),
            Err(error) => panic!("{source}: {error:?}"),
        }
    }
}

#[test]
fn hostile_templates_end_with_an_error() {
    let chain = |part: &str, count: usize| format!("{{{{ 1{} }}}}", part.repeat(count));
    let table = [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}".to_owned(),
        "{{ 'x' * 1000000000 }}".to_owned(),
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
            .to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        chain("-1", 20_000) + "{{ messages[9].x }}",
        format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("{{{{ messages{} }}}}", ".b".repeat(20_000)),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(20_000)) + "{{ messages[9].x }}",
    ];
    for source in table {
        assert!(render(&source).is_err(), "{}", &source[..60.min(source.len())]);
    }
}

#[test]
fn finds_the_template_of_a_folder() {
    let folder = std::env::temp_dir().join(format!("tunesmith-template-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("tokenizer_config.json");
    assert!(matches!(
        ChatTemplate::load(&folder, None, None),
        Err(TemplateError::Missing)
    ));
    std::fs::write(&config, r#"{"chat_template":"one"}"#).unwrap();
    assert_eq!(source_in(&folder).unwrap(), "one");
    let named =
        r#"{"chat_template":[{"name":"rag","template":"two"},{"name":"default","template":"three"}]}"#;
    std::fs::write(&config, named).unwrap();
    assert_eq!(source_in(&folder).unwrap(), "three");
    std::fs::write(folder.join("chat_template.jinja"), "four").unwrap();
    assert_eq!(source_in(&folder).unwrap(), "four");
    std::fs::remove_dir_all(&folder).unwrap();
}
