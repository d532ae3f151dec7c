// SPDX-License-Identifier: EUPL-1.2
//! What is asked of the Hub, and what its answers must be.

use std::io::{self, Read};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderValue, Response, Uri};
use ureq::{Agent, Body};

use super::error::one_line;
use super::repository::{ListedFile, Listing, Repository, is_safe_word};
use super::store::Part;
use super::{Error, PullOptions};

const CONNECT: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(60);
/// A connection that says nothing for so long is lost. A whole file may take as long as it needs.
const SILENCE: Duration = Duration::from_secs(60);
/// A listing with the sizes of about 200,000 files.
const LISTING_BYTES: u64 = 32 << 20;
const HOPS: usize = 5;

/// A repository on its server.
pub(super) struct Remote {
    agent: Agent,
    api: Api,
    endpoint: String,
    /// The endpoint without its path: what an address from `/` on belongs to.
    origin: String,
    repository: Repository,
    authorization: Option<HeaderValue>,
}

/// A file of a commit, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DescribedFile {
    /// Its name.
    pub(super) name: String,
    /// Its address.
    pub(super) url: String,
    /// The name of its content.
    pub(super) etag: String,
    /// Its bytes.
    pub(super) size: u64,
    /// The digest of its content in hexadecimal; only large files have one.
    pub(super) sha256: Option<String>,
}

impl Remote {
    pub(super) fn new(repository: &Repository, options: &PullOptions) -> Result<Self, Error> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let uri: Uri = endpoint.parse().map_err(|_| Error::Endpoint)?;
        let (Some(scheme @ ("http" | "https")), Some(authority), None) =
            (uri.scheme_str(), uri.authority(), uri.query())
        else {
            return Err(Error::Endpoint);
        };
        if authority.as_str().contains('@') {
            return Err(Error::Endpoint);
        }
        let origin = format!("{scheme}://{authority}");

        let mut authorization = None;
        if let Some(token) = &options.token {
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Error::Token);
            }
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            authorization = Some(value);
        }

        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Large files come from another host, which has no business with the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("ingle/", env!("CARGO_PKG_VERSION")))
            // A part of compressed content is no part of the file.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(SILENCE))
            .build();
        // The cache is given, for `ApiBuilder::new` panics where there is no home folder.
        let api = ApiBuilder::from_cache(Cache::new(options.cache_dir.clone().ok_or(Error::NoCacheFolder)?))
            .with_endpoint(endpoint.clone())
            .with_token(options.token.clone())
            .with_user_agent("ingle", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| Error::Unreachable { endpoint: endpoint.clone(), message: one_line(error) })?;
        Ok(Remote { agent: config.into(), api, endpoint, origin, repository: repository.clone(), authorization })
    }

    /// What the revision holds.
    pub(super) fn list(&self) -> Result<Listing, Error> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
            lfs: Option<Lfs>,
        }
        #[derive(Deserialize)]
        struct Lfs {
            sha256: Option<String>,
        }

        let repo = self.repo(&self.repository.revision);
        let url = format!("{}/api/{}", self.endpoint, repo.api_url());
        let response = self
            .api
            .repo(repo)
            .info_request()
            .query("blobs", "true")
            .config()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(SILENCE))
            .build()
            .call()
            .map_err(|error| Error::http(&self.endpoint, &url, &error))?;
        self.accept(&response, &url, None)?;
        let answer = |found: String| Error::Answer { url: url.clone(), expected: "a listing of files", found };
        let mut body = Vec::new();
        // Counted here and not by the client, which counts before it decompresses.
        let mut reader = response.into_body().into_reader().take(LISTING_BYTES + 1);
        reader.read_to_end(&mut body).map_err(|error| answer(one_line(error)))?;
        if body.len() as u64 > LISTING_BYTES {
            return Err(answer(format!("more than {LISTING_BYTES} bytes")));
        }
        let listed: Answer = serde_json::from_slice(&body).map_err(|error| answer(one_line(error)))?;
        if !is_safe_word(&listed.sha) {
            return Err(answer(format!("the commit {:?}", listed.sha)));
        }
        let files = listed.siblings.into_iter().map(|sibling| ListedFile {
            name: sibling.rfilename,
            size: sibling.size,
            sha256: sibling.lfs.and_then(|lfs| lfs.sha256),
        });
        Ok(Listing { commit: listed.sha, files: files.collect() })
    }

    /// Where a file of the commit is, what its content is called and how many bytes it has.
    pub(super) fn describe(&self, commit: &str, file: &ListedFile) -> Result<DescribedFile, Error> {
        // By commit, so that all files belong together though the branch may move on meanwhile.
        let mut url = self.api.repo(self.repo(commit)).url(&percent_encode(&file.name));
        let mut hops = 0;
        let response = loop {
            let mut request = self.agent.get(&url).header("Range", "bytes=0-0");
            if let Some(authorization) = &self.authorization {
                request = request.header("Authorization", authorization);
            }
            // Not through redirects to other hosts: only the Hub's own answer tells the content's name.
            let request = request.config().max_redirects(0).build();
            let response = request.call().map_err(|error| Error::http(&self.endpoint, &url, &error))?;
            let location = header(&response, "Location").filter(|_| response.status().is_redirection());
            let moved = match location {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    Some(format!("{}{path}", self.origin))
                }
                _ => None,
            };
            match moved {
                Some(moved) if hops < HOPS => {
                    url = moved;
                    hops += 1;
                }
                _ => break response,
            }
        };

        let answer = |expected, found: &str| Error::Answer { url: url.clone(), expected, found: one_line(found) };
        let status = response.status();
        // The first byte of an empty file is out of its range.
        let empty = status == 416 && header(&response, "Content-Range") == Some("bytes */0");
        if !status.is_redirection() && !empty {
            self.accept(&response, &url, Some(&file.name))?;
        }
        let etag = header(&response, "X-Linked-Etag").or_else(|| header(&response, "ETag"));
        let etag = etag.ok_or_else(|| answer("an ETag", "none"))?;
        let word = etag.trim_start_matches("W/").trim_matches('"');
        if !is_safe_word(word) {
            return Err(answer("an ETag of letters and digits", etag));
        }
        let told = if let Some(size) = header(&response, "X-Linked-Size") {
            size.parse().ok()
        } else if status == 206 || empty {
            ContentRange::of(&response).and_then(|range| range.total)
        } else if status == 200 {
            response.body().content_length()
        } else {
            None
        };
        let size = match (file.size, told) {
            (Some(expected), Some(found)) if expected != found => {
                return Err(Error::Size { file: file.name.clone(), expected, found });
            }
            (listed, told) => listed.or(told).ok_or_else(|| answer("the file's size", "none"))?,
        };
        Ok(DescribedFile {
            name: file.name.clone(),
            etag: word.to_owned(),
            size,
            sha256: file.sha256.clone(),
            url: url.clone(),
        })
    }

    /// Fetches the bytes that the partial file lacks. `report` is told the bytes that are here, and all.
    pub(super) fn fetch(
        &self,
        file: &DescribedFile,
        part: &mut Part,
        report: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        report(part.bytes(), file.size);
        if part.bytes() == file.size {
            return Ok(());
        }
        let mut request = self.agent.get(&file.url);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        if part.bytes() > 0 {
            request = request.header("Range", format!("bytes={}-", part.bytes()));
        }
        let response = request.call().map_err(|error| Error::http(&self.endpoint, &file.url, &error))?;

        let wrong_size = |found| Error::Size { file: file.name.clone(), expected: file.size, found };
        let range = ContentRange::of(&response);
        let total = match response.status().as_u16() {
            206 | 416 => range.and_then(|range| range.total),
            200 => response.body().content_length(),
            _ => None,
        };
        if let Some(total) = total.filter(|total| *total != file.size) {
            part.restart()?;
            return Err(wrong_size(total));
        }
        self.accept(&response, &file.url, Some(&file.name))?;
        if response.status() == 206 {
            if range.and_then(|range| range.start) != Some(part.bytes()) {
                return Err(Error::Answer {
                    url: file.url.clone(),
                    expected: "the range that was asked for",
                    found: one_line(header(&response, "Content-Range").unwrap_or("none")),
                });
            }
        } else if part.bytes() > 0 {
            // The server knows no ranges: the file comes again from its start.
            part.restart()?;
        }

        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        let interrupted = |part: &Part, message: String| Error::Interrupted {
            file: file.name.clone(),
            bytes: part.bytes(),
            total: file.size,
            message,
        };
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(interrupted(part, one_line(error))),
            };
            let bytes = part.bytes() + read as u64;
            if bytes > file.size {
                part.restart()?;
                return Err(wrong_size(bytes));
            }
            part.write(&buffer[..read])?;
            report(bytes, file.size);
        }
        if part.bytes() < file.size {
            return Err(interrupted(part, "the server closed the connection".into()));
        }
        Ok(())
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repository.id.clone(), RepoType::Model, revision.into())
    }

    /// Whether the answer is the thing asked for: a file, or the listing if `file` is `None`.
    fn accept(&self, response: &Response<Body>, url: &str, file: Option<&str>) -> Result<(), Error> {
        let id = &self.repository.id;
        let status = response.status().as_u16();
        match status {
            200 | 206 => Ok(()),
            401 | 403 => Err(Error::Denied {
                repo: id.clone(),
                status,
                token: if self.authorization.is_some() { "with a token" } else { "with no token" },
                page: format!("{}/{id}", self.endpoint),
            }),
            404 => {
                let what = match (file, header(response, "X-Error-Code")) {
                    (Some(file), _) => format!("{id}/{file}"),
                    (None, Some("RevisionNotFound")) => format!("{id}@{}", self.repository.revision),
                    (None, _) => id.clone(),
                };
                Err(Error::NotFound { what, endpoint: self.endpoint.clone() })
            }
            _ => Err(Error::Status { url: url.into(), status }),
        }
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// `Content-Range`: which bytes came, and of how many (RFC 9110, section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    start: Option<u64>,
    total: Option<u64>,
}

impl ContentRange {
    fn of(response: &Response<Body>) -> Option<Self> {
        Self::parse(header(response, "Content-Range")?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        Some(ContentRange {
            start: range.split_once('-').and_then(|(start, _)| start.parse().ok()),
            total: total.parse().ok(),
        })
    }
}

/// A file name as one segment of an address (RFC 3986, section 2.1).
fn percent_encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(endpoint: &str, token: Option<&str>) -> Result<Remote, Error> {
        let options = PullOptions {
            revision: None,
            cache_dir: Some("cache".into()),
            endpoint: endpoint.into(),
            token: token.map(str::to_owned),
        };
        Remote::new(&Repository::parse("o/n", None).unwrap(), &options)
    }

    #[test]
    fn endpoints_may_have_a_port_and_a_path_good() {
        let remote = remote("http://mirror:8080/hub/", None).unwrap();
        assert_eq!(
            (remote.endpoint.as_str(), remote.origin.as_str()),
            ("http://mirror:8080/hub", "http://mirror:8080")
        );
    }

    #[test]
    fn bad_endpoints_and_tokens_are_not_shown_bad() {
        for endpoint in ["", "mirror", "ftp://mirror", "http://me:secret@mirror", "http://", "http://a b"] {
            let error = remote(endpoint, None).map(|_| ()).unwrap_err();
            assert!(matches!(error, Error::Endpoint), "{endpoint}");
        }
        for token in ["", "hf_se cret", "hf_secret\r\nX-Evil: 1", "hf_sécret"] {
            let error = remote("http://mirror", Some(token)).map(|_| ()).unwrap_err();
            assert!(matches!(error, Error::Token), "{token}");
            assert!(!error.to_string().contains("hf_s"));
        }
    }

    #[test]
    fn content_ranges_good() {
        let range = |start, total| Some(ContentRange { start, total });
        assert_eq!(ContentRange::parse("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(ContentRange::parse("bytes */10"), range(None, Some(10)));
    }

    #[test]
    fn malformed_content_ranges_bad() {
        for text in ["", "bytes", "bytes 5", "lines 5-9/10"] {
            assert_eq!(ContentRange::parse(text), None, "{text}");
        }
        assert_eq!(
            ContentRange::parse("bytes -1-9/99999999999999999999"),
            Some(ContentRange { start: None, total: None })
        );
    }

    #[test]
    fn names_become_one_segment_of_an_address_ugly() {
        assert_eq!(percent_encode("a b#?%/é.json"), "a%20b%23%3F%25%2F%C3%A9.json");
    }
}
