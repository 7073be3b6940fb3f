// Server-sent events, parsed from a byte stream that may be cut anywhere.
//
// The network cuts where it likes: in the middle of an event, of a line, of "\r\n", of a UTF-8 character. So bytes go
// through one streaming decoder, and what is not yet a whole line is carried over to the next piece. Written by hand
// because EventSource can send neither a POST nor an Authorization header.
// Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

/** The answer's stream ended or broke before the answer did. */
export class StreamError extends Error {}

/** Text in, the data of whole events out. Comments (pings) and other fields are read and dropped. */
export class EventParser {
  #line = "";
  #data = [];
  #skipsNewline = false; // a "\r" ended the last piece: a "\n" that comes first belongs to it

  feed(text) {
    const events = [];
    let start = 0;
    for (let at = 0; at < text.length; at += 1) {
      const char = text[at];
      if (char !== "\n" && char !== "\r") {
        this.#skipsNewline = false;
        continue;
      }
      if (char === "\n" && this.#skipsNewline) {
        this.#skipsNewline = false;
        start = at + 1;
        continue;
      }
      this.#endLine(this.#line + text.slice(start, at), events);
      this.#line = "";
      this.#skipsNewline = char === "\r";
      start = at + 1;
    }
    this.#line += text.slice(start);
    return events;
  }

  #endLine(line, events) {
    if (line === "") {
      if (this.#data.length) events.push(this.#data.join("\n"));
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    if (field !== "data") return;
    const value = colon < 0 ? "" : line.slice(colon + 1);
    this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
  }
}

/** The data of each event of a body (a ReadableStream of bytes), as it arrives. */
export async function* eventData(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      // an event without its blank line is not whole, and is dropped as the standard says
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    // the reader of this generator may leave early; the connection is then closed, not left to fill up
    await reader.cancel().catch(() => {});
  }
}

/** The chunks (objects) of a streamed completion; StreamError where the stream is not what it should be. */
export async function* chunks(body) {
  for await (const data of eventData(body)) {
    if (data === "[DONE]") return;
    let chunk;
    try {
      chunk = JSON.parse(data);
    } catch {
      throw new StreamError(`the server sent something that is not JSON: ${data.slice(0, 80)}`);
    }
    if (chunk === null || typeof chunk !== "object") throw new StreamError("the server sent a chunk without content");
    yield chunk;
  }
}
