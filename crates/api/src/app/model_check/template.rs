//! Where a model keeps its chat template: a file of its own, or a string of the tokenizer's configuration.

use tunesmith_blobs::BlobError;

use super::Folder;

const TEMPLATE_FILE: &str = "chat_template.jinja";
const JSON_FILES: [&str; 2] = ["chat_template.json", "tokenizer_config.json"];
const MOST_TEMPLATE_BYTES: u64 = 256 << 10;
const MOST_JSON_BYTES: u64 = 16 << 20;

/// The text of the template; none where the model has none, which is no problem for training on prompts.
pub(super) async fn find(folder: &mut Folder<'_>) -> Result<Option<Vec<u8>>, BlobError> {
    if let Some(text) = folder.read(TEMPLATE_FILE, MOST_TEMPLATE_BYTES, false).await? {
        return Ok(Some(text));
    }
    for name in JSON_FILES {
        let Some(bytes) = folder.read(name, MOST_JSON_BYTES, false).await? else {
            continue;
        };
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            folder.complain(format!("`{name}` is not valid JSON."));
            continue;
        };
        if let Some(text) = json.get("chat_template").and_then(default_template) {
            return Ok(Some(text.as_bytes().to_vec()));
        }
    }
    Ok(None)
}

/// `chat_template` is a string, or a list of `{"name", "template"}`.
fn default_template(value: &serde_json::Value) -> Option<&str> {
    if let Some(text) = value.as_str() {
        return Some(text);
    }
    let named = value
        .as_array()?
        .iter()
        .find(|entry| entry.get("name").is_some_and(|name| name == "default"))?;
    named.get("template")?.as_str()
}
