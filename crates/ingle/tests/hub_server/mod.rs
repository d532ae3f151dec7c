// SPDX-License-Identifier: EUPL-1.2
//! A small Hub on 127.0.0.1: listings, files by commit, large files by redirect, ranges, tokens and bad manners.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// The commit that the repository is at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a file is served.
#[derive(Clone, Debug)]
pub enum Manner {
    Serve,
    /// The connection ends after so many bytes of the body.
    HangUpAfter(usize),
    /// Always the whole file.
    IgnoreRange,
    /// The listing gives this size.
    ListBytes(usize),
    /// Content that is not the listed one.
    SendOther(Vec<u8>),
    ETag(String),
    Status(u16),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

struct File {
    content: Vec<u8>,
    sha256: Option<String>,
    manner: Manner,
}

struct Content {
    address: SocketAddr,
    files: BTreeMap<String, File>,
    revision: String,
    commit: String,
    token: Option<String>,
    names_only: bool,
    listing: Option<String>,
    cdn: String,
    requests: Vec<Request>,
}

/// The server, running until dropped.
pub struct Hub {
    content: Arc<Mutex<Content>>,
    files: BTreeMap<String, Vec<u8>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Hub {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let content = Arc::new(Mutex::new(Content {
            address,
            files: BTreeMap::new(),
            revision: "main".into(),
            commit: COMMIT.into(),
            token: None,
            names_only: false,
            listing: None,
            cdn: format!("http://{address}"),
            requests: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (serving, stopping) = (content.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                // A client that hangs up is no failure of the server.
                let _ = answer(&mut stream.unwrap(), &serving);
            }
        });
        Hub { content, files: BTreeMap::new(), stop, thread: Some(thread), address }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn put(&mut self, name: &str, content: &[u8]) {
        self.add(name, content, None);
    }

    /// A file that is served by redirect, with its SHA-256 in the listing.
    pub fn put_large(&mut self, name: &str, content: &[u8]) {
        let digest = ring::digest::digest(&ring::digest::SHA256, content);
        self.add(name, content, Some(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()));
    }

    fn add(&mut self, name: &str, content: &[u8], sha256: Option<String>) {
        self.files.insert(name.into(), content.into());
        let file = File { content: content.into(), sha256, manner: Manner::Serve };
        self.content.lock().unwrap().files.insert(name.into(), file);
    }

    pub fn content(&self, name: &str) -> &Vec<u8> {
        &self.files[name]
    }

    pub fn manner(&mut self, name: &str, manner: Manner) {
        self.content.lock().unwrap().files.get_mut(name).unwrap().manner = manner;
    }

    pub fn require_token(&mut self, token: &str) {
        self.content.lock().unwrap().token = Some(token.into());
    }

    pub fn revision(&mut self, revision: &str) {
        self.content.lock().unwrap().revision = revision.into();
    }

    pub fn commit(&mut self, commit: &str) {
        self.content.lock().unwrap().commit = commit.into();
    }

    pub fn list_names_only(&mut self) {
        self.content.lock().unwrap().names_only = true;
    }

    pub fn list_as(&mut self, listing: &str) {
        self.content.lock().unwrap().listing = Some(listing.into());
    }

    /// The same machine by another name, which is another host to a client.
    pub fn large_files_on_another_host(&mut self) {
        self.content.lock().unwrap().cdn = format!("http://localhost:{}", self.address.port());
    }

    pub fn requests(&self) -> Vec<Request> {
        self.content.lock().unwrap().requests.clone()
    }

    pub fn forget_requests(&self) {
        self.content.lock().unwrap().requests.clear();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // The listener waits for a connection: this is the last.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What goes back to the client.
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
    /// Bytes of the body that are sent before the connection ends.
    sent: usize,
}

impl Answer {
    fn new(status: u16, headers: &[String], body: &[u8]) -> Self {
        Answer { status, headers: headers.into(), body: body.into(), sent: body.len() }
    }
}

fn answer(stream: &mut TcpStream, content: &Mutex<Content>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path, range: None, authorization: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.into()),
            "authorization" => request.authorization = Some(value.into()),
            _ => {}
        }
    }
    let answer = {
        let mut content = content.lock().unwrap();
        content.requests.push(request.clone());
        content.answer(&request)
    };
    let mut head = format!("HTTP/1.1 {} -\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for header in answer.headers {
        head += &format!("{header}\r\n");
    }
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    stream.write_all(&answer.body[..answer.sent])
}

impl Content {
    fn answer(&self, request: &Request) -> Answer {
        let path = decode(request.path.split('?').next().unwrap());
        if let Some(name) = path.strip_prefix("/cdn/") {
            return self.bytes_of(&self.files[name], request, Vec::new());
        }
        if let Some(token) = &self.token {
            match &request.authorization {
                None => return Answer::new(401, &["X-Error-Code: GatedRepo".into()], b"no"),
                Some(sent) if *sent != format!("Bearer {token}") => return Answer::new(403, &[], b"no"),
                Some(_) => {}
            }
        }
        if let Some(revision) = path.strip_prefix("/api/models/owner/model/revision/") {
            if revision == self.revision || revision == self.commit {
                let listing = self.listing.clone().unwrap_or_else(|| self.list().to_string());
                return Answer::new(200, &["Content-Type: application/json".into()], listing.as_bytes());
            }
            return Answer::new(404, &["X-Error-Code: RevisionNotFound".into()], b"no");
        }
        let name = path.strip_prefix(&format!("/owner/model/resolve/{}/", self.commit));
        let Some((name, file)) = name.and_then(|name| Some((name, self.files.get(name)?))) else {
            return Answer::new(404, &["X-Error-Code: RepoNotFound".into()], b"no");
        };
        let mut headers = vec![format!("X-Repo-Commit: {}", self.commit)];
        if let Some(sha256) = &file.sha256 {
            headers.push(format!("X-Linked-Etag: \"{sha256}\""));
            headers.push(format!("X-Linked-Size: {}", file.content.len()));
            headers.push(format!("Location: {}/cdn/{}", self.cdn, encode(name)));
            return Answer::new(302, &headers, b"");
        }
        let etag = match &file.manner {
            Manner::ETag(etag) => etag.clone(),
            _ => format!("W/\"e{:x}-{}\"", name.len(), name.replace('.', "_")),
        };
        headers.push(format!("ETag: {etag}"));
        self.bytes_of(file, request, headers)
    }

    fn bytes_of(&self, file: &File, request: &Request, mut headers: Vec<String>) -> Answer {
        let mut content = &file.content;
        let mut range = request.range.as_deref();
        let mut hang_up = None;
        match &file.manner {
            Manner::Status(status) => return Answer::new(*status, &headers, b"no"),
            Manner::IgnoreRange => range = None,
            Manner::SendOther(other) => content = other,
            Manner::HangUpAfter(bytes) => hang_up = Some(*bytes),
            Manner::Serve | Manner::ListBytes(_) | Manner::ETag(_) => {}
        }
        let Some(range) = range else {
            let mut answer = Answer::new(200, &headers, content);
            answer.sent = hang_up.unwrap_or(content.len());
            return answer;
        };
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(content.len(), |end: usize| content.len().min(end + 1));
        if start >= content.len() {
            headers.push(format!("Content-Range: bytes */{}", content.len()));
            return Answer::new(416, &headers, b"");
        }
        headers.push(format!("Content-Range: bytes {start}-{}/{}", end - 1, content.len()));
        Answer::new(206, &headers, &content[start..end])
    }

    fn list(&self) -> Value {
        let siblings: Vec<Value> = self
            .files
            .iter()
            .map(|(name, file)| {
                let size = match file.manner {
                    Manner::ListBytes(bytes) => bytes,
                    _ => file.content.len(),
                };
                match &file.sha256 {
                    _ if self.names_only => json!({ "rfilename": name }),
                    Some(sha256) => {
                        json!({ "rfilename": name, "size": size, "lfs": { "sha256": sha256, "size": size } })
                    }
                    None => json!({ "rfilename": name, "size": size }),
                }
            })
            .collect();
        json!({ "id": "owner/model", "sha": self.commit, "siblings": siblings, "endpoint": self.address.to_string() })
    }
}

fn encode(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect()
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: String = rest.by_ref().take(2).map(char::from).collect();
            bytes.push(u8::from_str_radix(&digits, 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}
