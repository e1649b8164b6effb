//! Requests as they come: clients leave out what has a default, which the library for messages does not forgive everywhere.

use std::time::Duration;

use jupyter_protocol::{JupyterMessage, JupyterMessageContent};
use jupyter_zmq_client::{Connection, RawMessage};
use serde_json::{Value, json};
use zeromq::SocketRecv;

use crate::front::Result;

/// After an unreadable message: if the socket is the reason, the next one is no better.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits for the next request; what is not signed by Jupyter's key, or is no message, is logged and passed over.
pub async fn next<S: SocketRecv>(socket: &mut Connection<S>) -> JupyterMessage {
    loop {
        match read(socket).await {
            Ok(request) => return request,
            Err(error) => eprintln!("stemm_kernel: a request cannot be read: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read<S: SocketRecv>(socket: &mut Connection<S>) -> Result<JupyterMessage> {
    let raw = RawMessage::from_multipart(socket.socket.recv().await?, &socket.mac)?;
    let [header, parent, metadata, content, buffers @ ..] = raw.jparts.as_slice() else {
        return Err("a message has too few parts".into());
    };
    let header: jupyter_protocol::Header = serde_json::from_slice(header)?;
    let content = complete(&header.msg_type, serde_json::from_slice(content)?);
    Ok(JupyterMessage {
        zmq_identities: raw.zmq_identities,
        content: JupyterMessageContent::from_type_and_content(&header.msg_type, content)?,
        header,
        parent_header: serde_json::from_slice(parent).ok(), // empty where there is none
        metadata: serde_json::from_slice(metadata)?,
        buffers: buffers.to_vec(),
        channel: None,
    })
}

/// The content with the protocol's defaults for what it leaves out.
fn complete(kind: &str, mut content: Value) -> Value {
    let defaults = match kind {
        "execute_request" => {
            json!({"silent": false, "store_history": true, "user_expressions": {}, "allow_stdin": true, "stop_on_error": true})
        }
        "history_request" => {
            json!({"hist_access_type": "tail", "n": 1000, "start": 0, "stop": 0, "unique": false, "output": false, "raw": true,
                "pattern": "*", "session": 0})
        }
        "shutdown_request" => json!({"restart": false}),
        _ => return content,
    };
    if let (Some(content), Value::Object(defaults)) = (content.as_object_mut(), defaults) {
        for (name, value) in defaults {
            let own = content.entry(name).or_insert(Value::Null);
            if own.is_null() {
                *own = value;
            }
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_leaves_out_has_its_default() {
        let content = |kind: &str, content| JupyterMessageContent::from_type_and_content(kind, complete(kind, content));
        let search = content("history_request", json!({"hist_access_type": "search", "pattern": "let*"})).unwrap();
        let JupyterMessageContent::HistoryRequest(jupyter_protocol::HistoryRequest::Search { pattern, n, .. }) = search
        else {
            panic!("another kind")
        };
        assert_eq!((pattern.as_str(), n), ("let*", 1000));
        let execute = content("execute_request", json!({"code": "1", "stop_on_error": false})).unwrap();
        let JupyterMessageContent::ExecuteRequest(execute) = execute else { panic!("another kind") };
        assert!(execute.store_history && !execute.stop_on_error && !execute.silent);
    }
}
