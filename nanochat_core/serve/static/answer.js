// One answer: asked for, streamed into its parts, waited for when the server says wait, stopped on request.
//
// An answer is a plain object, so that it can be kept and exported as it is. Its status is one of streaming, waiting,
// done, stopped, error. `report` is called after every change; what is drawn, said and saved is up to who asks.

import { ApiError, errorInStream } from "./api.js";
import { chunks, StreamError } from "./stream.js";
import { messagesFor, pathTo } from "./tree.js";

const POLL_MS = 1000;
// a browser that leaves a page breaks its connections first: that is no error, and it is gone before this is over
const LEAVING_MS = 800;
const ANSWER_FRAC = 0.25; // of the context, that is kept free for the answer

/** An answer that is about to be asked for. sampling: temperature, top_k, top_p, max_tokens, seed, system. */
export function newAnswer(model, ref, sampling) {
  return { model, ref, sampling, parts: [], status: "streaming", finish: null, error: null, stats: null, forgotten: 0 };
}

/** Fills `answer`, whose question stands at `place`; never throws, the answer says what went wrong. */
export async function fillAnswer(answer, { api, conversation, place, signal, report }) {
  const startedAt = performance.now();
  answer.forgotten = forgottenToFit(answer, conversation, place);
  try {
    await askUntilTaken(answer, { api, conversation, place, signal, report, startedAt });
    answer.status = "done";
  } catch (error) {
    if (!(error instanceof ApiError) || error.kind === "offline") await pause(LEAVING_MS, signal).catch(() => {});
    if (signal.aborted) {
      answer.status = "stopped";
    } else {
      answer.status = "error";
      answer.error = errorInWords(error);
    }
  }
  delete answer.wait;
  report();
}

async function askUntilTaken(answer, asked) {
  const { api, conversation, place, signal, report } = asked;
  for (;;) {
    try {
      const body = await api.stream(requestFor(answer, conversation, place), signal);
      answer.status = "streaming";
      delete answer.wait;
      report();
      return await readInto(answer, body, asked);
    } catch (error) {
      if (!(error instanceof ApiError) || answer.parts.length) throw error;
      if (error.kind === "context" && 2 * (answer.forgotten + 1) < pathTo(conversation, place).length) {
        answer.forgotten += 1; // the oldest exchange goes, as in the terminal; the page says so above the answer
      } else if (error.kind === "busy") {
        const untilMs = Date.now() + error.retryAfterS * 1000;
        await waitFor(answer, { message: error.message, untilMs }, signal, report);
      } else if (error.kind === "loading") {
        await waitFor(answer, { message: error.message, untilMs: null }, signal, report);
      } else throw error;
    }
  }
}

function requestFor(answer, conversation, place) {
  const { system, ...sampling } = answer.sampling;
  // no top-k is a wish, not a silence: left out, the server would take its own
  const given = Object.entries({ ...sampling, top_k: sampling.top_k ?? 0 }).filter(([, value]) => value !== null);
  const messages = messagesFor(conversation, place, { model: answer.model, system, forgotten: answer.forgotten });
  return { model: answer.model, messages, ...Object.fromEntries(given) };
}

/** How many of the oldest exchanges are left out, so that the answer has room; judged by what the last answer took. */
function forgottenToFit({ model, sampling: { system } }, conversation, place) {
  const path = pathTo(conversation, place);
  const answers = path.length > 2 ? conversation.nodes[path.at(-2)].answers : [];
  const last = answers.find((one) => one.model === model) ?? answers[0];
  const used = usedContext(last?.stats);
  if (!used) return last?.forgotten ?? 0;
  const charsFrom = (end, forgotten) =>
    JSON.stringify(messagesFor(conversation, end, { model, system, forgotten })).length;
  const tokensPerChar = used.tokens / charsFrom(path.at(-2), last.forgotten);
  let { forgotten } = last;
  const isTooLong = () => charsFrom(place, forgotten) * tokensPerChar > (1 - ANSWER_FRAC) * used.of;
  while (2 * (forgotten + 1) < path.length && isTooLong()) forgotten += 1;
  return forgotten;
}

/** {tokens, of}: how much of its context an answer took; null where the server did not say. */
export function usedContext(stats) {
  const { promptTokens, completionTokens, contextTokens } = stats ?? {};
  return promptTokens && contextTokens ? { tokens: promptTokens + (completionTokens ?? 0), of: contextTokens } : null;
}

async function readInto(answer, body, { signal, report, startedAt }) {
  for await (const chunk of chunks(body)) {
    const error = errorInStream(chunk);
    if (error) throw error;
    const changed = takeChunk(answer, chunk, (performance.now() - startedAt) / 1000);
    if (changed) report();
  }
  signal.throwIfAborted();
  if (answer.finish === null) throw new StreamError("the connection ended");
}

/** Adds what a chunk says to the answer; false where it said nothing. */
export function takeChunk(answer, chunk, elapsedS = 0) {
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  const delta = choice.delta ?? {};
  const tool = delta.nanochat ?? {};
  let changed = false;
  const put = (type, text) => {
    changed = true;
    const last = answer.parts.at(-1);
    if (type === "text" && last?.type === "text") last.text += text;
    else answer.parts.push({ type, text });
  };
  if (typeof delta.content === "string" && delta.content) put("text", delta.content);
  if (tool.tool_call) put("python", String(tool.tool_call.expression));
  if (tool.tool_result) put("python_output", String(tool.tool_result.text));
  if (tool.tool_error) put("python_error", String(tool.tool_error.expression));
  if (changed) countChunk(answer, elapsedS);
  if (choice.finish_reason) {
    answer.finish = choice.finish_reason;
    if (chunk.nanochat) answer.stats = measuredByServer(chunk.nanochat);
    changed = true;
  }
  return changed;
}

// what the page itself can measure; the server's own figures replace it when the answer is whole
function countChunk(answer, elapsedS) {
  const before = answer.stats ?? { ttftS: elapsedS, numChunks: 0 };
  const numChunks = before.numChunks + 1;
  const decodingS = elapsedS - before.ttftS;
  const perS = numChunks > 1 && decodingS > 0 ? (numChunks - 1) / decodingS : null;
  answer.stats = { isEstimate: true, ttftS: before.ttftS, tokensPerS: perS, numChunks };
}

function measuredByServer(said) {
  const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
  return {
    isEstimate: false,
    ttftS: number(said.ttft_s),
    tokensPerS: number(said.tokens_per_s),
    promptTokens: number(said.prompt_tokens),
    completionTokens: number(said.completion_tokens),
    contextTokens: number(said.context_tokens),
    seed: number(said.seed),
  };
}

async function waitFor(answer, wait, signal, report) {
  answer.status = "waiting";
  answer.wait = wait;
  const untilMs = wait.untilMs ?? Date.now() + POLL_MS;
  while (Date.now() < untilMs) {
    report();
    await pause(Math.min(POLL_MS, untilMs - Date.now()), signal);
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

function errorInWords(error) {
  if (error instanceof ApiError) return { kind: error.kind, message: error.message };
  if (error instanceof StreamError) return { kind: "broken", message: `The answer broke off: ${error.message}.` };
  return { kind: "broken", message: "The connection broke before the answer was whole." };
}
