// The server's API as the page uses it, and its errors in plain words.
//
// Every failure becomes an ApiError with a kind, because what the page does next depends on the kind alone: wait and
// try again (busy, loading), ask for the token, offer a retry (offline, server), or only say what is wrong (request).

const KINDS = { 400: "request", 401: "token", 403: "request", 404: "missing", 413: "request", 429: "busy" };
const DEFAULT_RETRY_S = 2;
const MAX_RETRY_S = 120;

/** kind: offline, token, busy, loading, request, context, missing or server; message: for people. */
export class ApiError extends Error {
  constructor(kind, message, { retryAfterS = DEFAULT_RETRY_S } = {}) {
    super(message);
    this.kind = kind;
    this.retryAfterS = retryAfterS;
  }
}

export class Api {
  #readToken;

  /** readToken() gives the token to send, or null. */
  constructor(base, readToken) {
    this.base = base;
    this.#readToken = readToken;
  }

  /** The models that can be talked to, as the server lists them. */
  async models() {
    const response = await this.#fetch("v1/models");
    const body = await response.json().catch(() => null);
    const listed = Array.isArray(body?.data) ? body.data : [];
    return listed.filter((entry) => typeof entry?.id === "string");
  }

  /** What the server says of a run's data; `query` by name, without what is empty. */
  async data(path, query = {}) {
    const asked = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
    const response = await this.#fetch(`data/${path}?${new URLSearchParams(asked)}`);
    return response.json();
  }

  /** The body of a streamed answer; aborting the signal closes the connection, which frees the server's slot. */
  async stream(request, signal) {
    const response = await this.#fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...request, stream: true }),
      signal,
    });
    return response.body;
  }

  async #fetch(path, options = {}) {
    const token = this.#readToken();
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    let response;
    try {
      response = await fetch(new URL(path, this.base), { cache: "no-store", ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("offline", "The server cannot be reached. Is it running, and are you online?");
    }
    if (!response.ok) throw await errorFrom(response);
    return response;
  }
}

async function errorFrom(response) {
  const body = await response.json().catch(() => null);
  const said = typeof body?.error?.message === "string" ? body.error.message : "";
  // a 503 that says when to try again is a model that is being loaded; without that it has failed
  const isLoading = response.status === 503 && response.headers.has("Retry-After");
  const kind = isLoading ? "loading" : (KINDS[response.status] ?? "server");
  if (kind === "token") return new ApiError(kind, "The server asks for its token.");
  if (kind === "busy") {
    const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
    const retryAfterS = Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), MAX_RETRY_S) : DEFAULT_RETRY_S;
    return new ApiError(kind, "The server is busy with other answers.", { retryAfterS });
  }
  if (kind === "loading") return new ApiError(kind, "The model is still being loaded.");
  if (kind === "server") return new ApiError(kind, `The server failed (${response.status}). ${said}`.trim());
  return new ApiError(isContextError(body) ? "context" : kind, said || `The server refused this (${response.status}).`);
}

/** OpenAI's name for a prompt that does not fit. */
function isContextError(body) {
  return body?.error?.code === "context_length_exceeded";
}

/** The error that stands in a stream after its start: data: {"error": {...}}. */
export function errorInStream(chunk) {
  if (chunk.error === undefined) return null;
  const said = typeof chunk.error?.message === "string" ? chunk.error.message : "no reason given";
  return new ApiError("server", `The server stopped in the middle of the answer: ${said}`);
}
