// SPDX-License-Identifier: EUPL-1.2
//! Pulling models from a server on this machine that speaks the Hub's protocol.

mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};

use hub_server::{Hub, Manner};
use ingle::hub::{self, Error, PullOptions};

const REPO: &str = "owner/model";
const TOKEN: &str = "hf_verysecret";

fn options(hub: &Hub, cache: &Path) -> PullOptions {
    PullOptions { revision: None, cache_dir: Some(cache.into()), endpoint: hub.endpoint(), token: None }
}

fn pull(hub: &Hub, cache: &Path) -> Result<PathBuf, Error> {
    hub::pull(REPO, &options(hub, cache), &mut |_| {})
}

/// Bytes that differ everywhere, so that a part put in the wrong place is seen.
fn weights(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// A model with two weight files, and what comes beside a model.
fn model() -> Hub {
    let mut hub = Hub::new();
    hub.put("config.json", b"{}");
    hub.put("tokenizer.json", b"{\"model\": {}}");
    hub.put("chat_template.jinja", b"{{ messages }}");
    hub.put("added_tokens.json", b"");
    hub.put(
        "model.safetensors.index.json",
        br#"{"metadata": {}, "weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#,
    );
    hub.put_large("model-1-of-2.safetensors", &weights(1_500_000));
    hub.put_large("model-2-of-2.safetensors", &weights(700_000));
    hub.put_large("consolidated.safetensors", &weights(1000));
    hub.put_large("pytorch_model.bin", &weights(1000));
    hub.put("README.md", b"# A model");
    hub.put("onnx/config.json", b"{}");
    hub
}

#[test]
fn whole_model_arrives_good() {
    let hub = model();
    let cache = tempfile::tempdir().unwrap();
    let mut seen: Vec<(String, u64, u64)> = Vec::new();
    let folder = hub::pull(REPO, &options(&hub, cache.path()), &mut |progress| {
        assert_eq!(progress.files, 7);
        assert!(progress.bytes <= progress.total);
        if seen.last().is_none_or(|(file, ..)| file != progress.file) {
            seen.push((progress.file.into(), 0, 0));
        }
        assert_eq!(seen.len() - 1, progress.file_index);
        let last = seen.last_mut().unwrap();
        assert!(last.1 <= progress.bytes);
        (last.1, last.2) = (progress.bytes, progress.total);
    })
    .unwrap();

    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "added_tokens.json",
            "chat_template.jinja",
            "config.json",
            "model-1-of-2.safetensors",
            "model-2-of-2.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
        ]
    );
    for (name, bytes, total) in &seen {
        assert_eq!(&fs::read(folder.join(name)).unwrap(), hub.content(name), "{name}");
        assert_eq!((*bytes, *total), (hub.content(name).len() as u64, hub.content(name).len() as u64), "{name}");
    }
    assert!(folder.ends_with(Path::new("models--owner--model/snapshots").join(hub_server::COMMIT)));
    assert!(hub.requests().iter().all(|request| request.authorization.is_none()));
}

#[test]
fn second_pull_fetches_nothing_good() {
    let hub = model();
    let cache = tempfile::tempdir().unwrap();
    let folder = pull(&hub, cache.path()).unwrap();
    hub.forget_requests();
    assert_eq!(pull(&hub, cache.path()).unwrap(), folder);
    let paths: Vec<String> = hub.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/api/models/owner/model/revision/main?blobs=true"]);
}

#[test]
fn interrupted_pull_goes_on_where_it_stopped_good() {
    let mut hub = model();
    let cache = tempfile::tempdir().unwrap();
    hub.manner("model-1-of-2.safetensors", Manner::HangUpAfter(600_000));
    let error = pull(&hub, cache.path()).unwrap_err();
    let Error::Interrupted { file, bytes, total, .. } = &error else { panic!("{error}") };
    assert_eq!((file.as_str(), *bytes, *total), ("model-1-of-2.safetensors", 600_000, 1_500_000));
    assert_eq!(hub::cached(REPO, &options(&hub, cache.path())), None);

    hub.manner("model-1-of-2.safetensors", Manner::Serve);
    hub.forget_requests();
    let folder = pull(&hub, cache.path()).unwrap();
    let ranges: Vec<Option<String>> = hub
        .requests()
        .into_iter()
        .filter(|request| request.path.ends_with("/cdn/model-1-of-2.safetensors"))
        .map(|request| request.range)
        .collect();
    assert_eq!(ranges, [Some("bytes=600000-".into())]);
    assert!(!hub.requests().iter().any(|request| request.path.ends_with("/config.json")));
    for name in ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "config.json"] {
        assert_eq!(&fs::read(folder.join(name)).unwrap(), hub.content(name), "{name}");
    }
}

#[test]
fn resuming_where_ranges_are_unknown_starts_again_ugly() {
    let mut hub = model();
    let cache = tempfile::tempdir().unwrap();
    hub.manner("model-1-of-2.safetensors", Manner::HangUpAfter(600_000));
    pull(&hub, cache.path()).unwrap_err();
    hub.manner("model-1-of-2.safetensors", Manner::IgnoreRange);
    let folder = pull(&hub, cache.path()).unwrap();
    let name = "model-1-of-2.safetensors";
    assert_eq!(&fs::read(folder.join(name)).unwrap(), hub.content(name));
}

#[test]
fn interrupted_after_the_last_byte_is_only_put_in_place_ugly() {
    let hub = model();
    let cache = tempfile::tempdir().unwrap();
    let folder = pull(&hub, cache.path()).unwrap();
    let name = "model-2-of-2.safetensors";
    let blob = fs::canonicalize(folder.join(name)).unwrap();
    fs::rename(&blob, format!("{}.part", blob.display())).unwrap();
    hub.forget_requests();
    pull(&hub, cache.path()).unwrap();
    assert_eq!(&fs::read(folder.join(name)).unwrap(), hub.content(name));
    assert!(!hub.requests().iter().any(|request| request.path.contains("/cdn/")));
}

#[test]
fn damaged_partial_file_is_not_kept_ugly() {
    let mut hub = model();
    let cache = tempfile::tempdir().unwrap();
    let name = "model-1-of-2.safetensors";
    hub.manner(name, Manner::HangUpAfter(600_000));
    pull(&hub, cache.path()).unwrap_err();
    hub.manner(name, Manner::Serve);
    let blobs = cache.path().join("models--owner--model/blobs");
    let part = fs::read_dir(blobs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "part"));
    fs::write(part.unwrap(), [0; 600_000]).unwrap();
    let error = pull(&hub, cache.path()).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    let folder = pull(&hub, cache.path()).unwrap();
    assert_eq!(&fs::read(folder.join(name)).unwrap(), hub.content(name));
}

#[test]
fn shortened_file_in_the_cache_is_fetched_again_ugly() {
    let hub = model();
    let cache = tempfile::tempdir().unwrap();
    let folder = pull(&hub, cache.path()).unwrap();
    let name = "model-2-of-2.safetensors";
    let blob = fs::canonicalize(folder.join(name)).unwrap();
    fs::write(&blob, b"short").unwrap();
    pull(&hub, cache.path()).unwrap();
    assert_eq!(&fs::read(folder.join(name)).unwrap(), hub.content(name));
}

#[test]
fn wrong_sizes_are_refused_bad() {
    for manner in
        [Manner::ListBytes(9), Manner::SendOther(b"{\"longer\": 1}".to_vec()), Manner::SendOther(b"".to_vec())]
    {
        let mut hub = model();
        let cache = tempfile::tempdir().unwrap();
        hub.manner("config.json", manner.clone());
        let error = pull(&hub, cache.path()).unwrap_err();
        assert!(matches!(error, Error::Size { .. }), "{manner:?}: {error}");
        assert!(error.to_string().starts_with("config.json: expected "), "{error}");
        let snapshot = cache.path().join("models--owner--model/snapshots").join(hub_server::COMMIT);
        assert!(!snapshot.join("config.json").exists());
        assert_eq!(hub::cached(REPO, &options(&hub, cache.path())), None);
    }
}

#[test]
fn wrong_content_of_the_right_size_is_refused_bad() {
    let mut hub = model();
    let cache = tempfile::tempdir().unwrap();
    hub.manner("model-2-of-2.safetensors", Manner::SendOther(vec![0; 700_000]));
    let error = pull(&hub, cache.path()).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(hub::cached(REPO, &options(&hub, cache.path())), None);
}

#[test]
fn listing_without_sizes_is_enough_ugly() {
    let mut hub = model();
    hub.list_names_only();
    let cache = tempfile::tempdir().unwrap();
    let folder = pull(&hub, cache.path()).unwrap();
    for name in ["config.json", "added_tokens.json", "model-1-of-2.safetensors"] {
        assert_eq!(&fs::read(folder.join(name)).unwrap(), hub.content(name), "{name}");
    }
}

#[test]
fn cached_needs_no_server_good() {
    let hub = model();
    let cache = tempfile::tempdir().unwrap();
    let options = options(&hub, cache.path());
    assert_eq!(hub::cached(REPO, &options), None);
    let folder = pull(&hub, cache.path()).unwrap();
    drop(hub);
    assert_eq!(hub::cached(REPO, &options), Some(folder.clone()));
    assert_eq!(hub::cached(&format!("{REPO}@{}", hub_server::COMMIT), &options), Some(folder.clone()));
    assert_eq!(hub::cached(&format!("{REPO}@other"), &options), None);
    assert_eq!(hub::cached("owner/other", &options), None);
    assert_eq!(hub::cached("malformed", &options), None);
    fs::remove_file(folder.join("model-2-of-2.safetensors")).unwrap();
    assert_eq!(hub::cached(REPO, &options), None);
}

#[test]
fn all_cached_lists_what_is_whole_ugly() {
    let cache = tempfile::tempdir().unwrap();
    let mut hub = model();
    let options = PullOptions { cache_dir: Some(cache.path().join("hub")), ..options(&hub, cache.path()) };
    assert_eq!(hub::all_cached(&options), Ok(Vec::new()));
    let folder = hub::pull(REPO, &options, &mut |_| {}).unwrap();
    hub.revision("refs/pr/5");
    hub::pull("owner/model@refs/pr/5", &options, &mut |_| {}).unwrap();
    // What other tools leave there: a data set, an old name without owner, a file, a model not yet whole.
    let cache = cache.path().join("hub");
    for repo in ["datasets--a--b", "models--gpt2", "models--owner--partial"] {
        fs::create_dir_all(cache.join(repo).join("refs")).unwrap();
        fs::write(cache.join(repo).join("refs/main"), hub_server::COMMIT).unwrap();
    }
    fs::write(cache.join("version.txt"), "1").unwrap();
    fs::write(cache.join("models--a--file"), "1").unwrap();
    let expected = [("owner/model".to_owned(), folder.clone()), ("owner/model@refs/pr/5".to_owned(), folder)];
    assert_eq!(hub::all_cached(&options).unwrap(), expected);
    for (name, folder) in expected {
        assert_eq!(hub::cached(&name, &options), Some(folder));
    }
}

#[test]
fn revisions_are_asked_for_good() {
    let mut hub = model();
    hub.revision("refs/pr/5");
    let cache = tempfile::tempdir().unwrap();
    let folder = hub::pull("owner/model@refs/pr/5", &options(&hub, cache.path()), &mut |_| {}).unwrap();
    let asked = PullOptions { revision: Some("refs/pr/5".into()), ..options(&hub, cache.path()) };
    assert_eq!(hub::cached(REPO, &asked), Some(folder));
    assert!(hub.requests()[0].path.starts_with("/api/models/owner/model/revision/refs%2Fpr%2F5"));

    let error = pull(&hub, cache.path()).unwrap_err();
    assert_eq!(
        error.to_string().split(';').next(),
        Some(&*format!("owner/model@main: not found at {}", hub.endpoint()))
    );
}

#[test]
fn token_goes_to_the_hub_and_to_no_other_host_good() {
    let mut hub = model();
    hub.require_token(TOKEN);
    hub.large_files_on_another_host();
    let cache = tempfile::tempdir().unwrap();
    let options = PullOptions { token: Some(TOKEN.into()), ..options(&hub, cache.path()) };
    hub::pull(REPO, &options, &mut |_| {}).unwrap();
    let (cdn, hub): (Vec<_>, Vec<_>) = hub.requests().into_iter().partition(|request| request.path.contains("/cdn/"));
    assert_eq!(cdn.len(), 2);
    assert!(cdn.iter().all(|request| request.authorization.is_none()));
    assert!(hub.iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_verysecret")));
}

#[test]
fn refused_access_says_to_set_a_token_bad() {
    let mut hub = model();
    hub.require_token("hf_another");
    let cache = tempfile::tempdir().unwrap();
    for (token, told) in [(None, "HTTP 401, with no token"), (Some(TOKEN.to_owned()), "HTTP 403, with a token")] {
        let options = PullOptions { token, ..options(&hub, cache.path()) };
        let error = hub::pull(REPO, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("set HF_TOKEN"), "{error}");
        assert!(error.contains(&format!("{}/{REPO}", hub.endpoint())), "{error}");
        assert!(!error.contains('\n') && !error.contains(TOKEN), "{error}");
    }
}

#[test]
fn token_is_in_no_error_ugly() {
    let mut hub = model();
    hub.manner("config.json", Manner::Status(500));
    let cache = tempfile::tempdir().unwrap();
    let mut options = PullOptions { token: Some(TOKEN.into()), ..options(&hub, cache.path()) };
    let mut errors = vec![hub::pull(REPO, &options, &mut |_| {}).unwrap_err()];
    errors.push(hub::pull("owner/absent", &options, &mut |_| {}).unwrap_err());
    options.endpoint = "http://127.0.0.1:1".into();
    errors.push(hub::pull(REPO, &options, &mut |_| {}).unwrap_err());
    options.token = Some(format!("{TOKEN}\r\nX-Evil: 1"));
    errors.push(hub::pull(REPO, &options, &mut |_| {}).unwrap_err());
    for error in errors {
        assert!(!format!("{error} {error:?}").contains(TOKEN), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    assert!(!format!("{options:?}").contains(TOKEN));
}

#[test]
fn absent_repository_is_not_found_bad() {
    let hub = model();
    let cache = tempfile::tempdir().unwrap();
    let error = hub::pull("owner/absent", &options(&hub, cache.path()), &mut |_| {}).unwrap_err();
    assert_eq!(error, Error::NotFound { what: "owner/absent".into(), endpoint: hub.endpoint() });
}

#[test]
fn no_server_is_no_connection_bad() {
    let hub = model();
    let cache = tempfile::tempdir().unwrap();
    let options = options(&hub, cache.path());
    drop(hub);
    let error = hub::pull(REPO, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("no connection"), "{error}");
}

#[test]
fn repository_without_safetensors_is_refused_before_anything_is_fetched_bad() {
    let mut hub = Hub::new();
    hub.put("config.json", b"{}");
    hub.put_large("model.gguf", b"GGUF");
    let cache = tempfile::tempdir().unwrap();
    let error = pull(&hub, cache.path()).unwrap_err();
    assert!(error.to_string().starts_with("owner/model: has no .safetensors file (it has .gguf)"), "{error}");
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn hostile_file_names_are_refused_before_anything_is_fetched_ugly() {
    for name in ["../../escaped.safetensors", "/escaped.safetensors", "a/../../escaped.json", "..\\escaped.safetensors"]
    {
        let mut hub = model();
        hub.put(name, b"escaped");
        let cache = tempfile::tempdir().unwrap();
        let error = pull(&hub, cache.path()).unwrap_err();
        assert!(matches!(error, Error::FileName { .. }), "{name}: {error}");
        assert_eq!(hub.requests().len(), 1);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }
}

#[test]
fn hostile_etags_and_commits_are_refused_ugly() {
    for etag in ["\"../../../escaped\"", "\"/tmp/escaped\"", "\"\"", "\".\"", "\"a.part\""] {
        let mut hub = model();
        hub.manner("added_tokens.json", Manner::ETag(etag.into()));
        let cache = tempfile::tempdir().unwrap();
        let error = pull(&hub, cache.path()).unwrap_err();
        assert!(matches!(error, Error::Answer { expected: "an ETag of letters and digits", .. }), "{etag}: {error}");
    }
    let mut hub = model();
    hub.commit("../../escaped");
    let cache = tempfile::tempdir().unwrap();
    let error = pull(&hub, cache.path()).unwrap_err();
    assert!(error.to_string().contains("expected a listing of files, found the commit"), "{error}");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn unicode_and_odd_names_arrive_ugly() {
    let mut hub = Hub::new();
    hub.put("config.json", b"{}");
    for name in ["모델 1.safetensors", "a#b?c%20.safetensors", "．．／x.safetensors"] {
        hub.put_large(name, name.as_bytes());
    }
    let cache = tempfile::tempdir().unwrap();
    let folder = pull(&hub, cache.path()).unwrap();
    for name in ["모델 1.safetensors", "a#b?c%20.safetensors", "．．／x.safetensors"] {
        assert_eq!(fs::read(folder.join(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn answers_that_are_not_the_hubs_are_refused_ugly() {
    let mut hub = model();
    hub.list_as("<html>");
    let cache = tempfile::tempdir().unwrap();
    let error = pull(&hub, cache.path()).unwrap_err();
    assert!(matches!(error, Error::Answer { expected: "a listing of files", .. }), "{error}");
    assert!(error.to_string().contains("check HF_ENDPOINT"), "{error}");
}
