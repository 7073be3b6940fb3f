// What a person can do in a conversation: send, stop, answer again, edit, go to another version, try again.
//
// Each adds a branch or picks one (tree.js) and may start a run: the answers that are being filled, with the controller
// that stops them. A run belongs to its conversation, so an answer goes on while another conversation is looked at.

import { fillAnswer, newAnswer } from "./answer.js";
import { Narrator } from "./announce.js";
import { addAssistant, addUser, choose, lastShown, newConversation, textFrom, versions } from "./tree.js";

export class Chat {
  #runs = new Map(); // conversation -> AbortController
  #parts;

  /** parts: {api, store, announcer, chosenModels(), nextSampling({version})}; hooks: onBranch, onAnswer, onState,
   *  onError. */
  constructor(parts, hooks) {
    this.#parts = parts;
    this.hooks = hooks;
    this.conversation = newConversation();
    // a page that goes stops its answers itself: the browser would break them off, which looks like a lost network
    addEventListener("pagehide", () => this.#runs.forEach((controller) => controller.abort()));
  }

  /** Whether an answer of the shown conversation is under way. */
  get isBusy() {
    return this.isRunning(this.conversation);
  }

  isRunning(conversation) {
    return this.#runs.has(conversation);
  }

  /** Shows a conversation; a new one where none is given. */
  open(conversation = newConversation()) {
    this.conversation = conversation;
    this.hooks.onBranch();
  }

  /** Says something at the end of the shown branch. */
  send(text) {
    if (this.isBusy || !text.trim() || !this.#parts.chosenModels().length) return false;
    this.#catchUp();
    const { conversation } = this;
    const parent = lastShown(conversation, "assistant");
    this.#answer(addUser(conversation, parent, text.trim()));
    return true;
  }

  /** Says something else at this place: a new branch beside the old one. */
  edit(place, text) {
    if (this.isBusy) return;
    this.#catchUp();
    this.#answer(addUser(this.conversation, this.conversation.nodes[place].parent, text));
  }

  /** Another answer to the same question, by the models that are chosen now. */
  regenerate(place) {
    if (this.isBusy) return;
    this.#catchUp();
    const { parent } = this.conversation.nodes[place];
    this.#answer(parent, { version: versions(this.conversation, place).length });
  }

  /** Asks again for those answers of a node that failed, as they were asked for; the others stay. */
  retry(place) {
    this.#catchUp();
    const failed = this.conversation.nodes[place].answers.filter((answer) => answer.status === "error");
    if (this.isBusy || !failed.length) return;
    for (const answer of failed) Object.assign(answer, newAnswer(answer.model, answer.ref, answer.sampling));
    this.#run(place, failed);
  }

  /** Goes to another version of a message. */
  chooseVersion(place) {
    this.#catchUp();
    choose(this.conversation, place);
    this.#parts.store.save(this.conversation);
    this.hooks.onBranch();
  }

  /** Ends the answers that are under way; what was said stays. False where nothing was. */
  stop() {
    const controller = this.#runs.get(this.conversation);
    controller?.abort();
    return Boolean(controller);
  }

  // nodes are only ever added, so a place here is the same place there
  #catchUp() {
    const kept = this.isBusy ? null : this.#parts.store.newer(this.conversation);
    if (kept) this.open(kept);
  }

  #answer(question, { version = 0 } = {}) {
    const sampling = this.#parts.nextSampling({ version });
    const entries = this.#parts.chosenModels();
    const answers = entries.map(({ id, nanochat }) => newAnswer(id, nanochat?.ref ?? id, sampling));
    this.#run(addAssistant(this.conversation, question, answers), answers);
  }

  async #run(place, answers) {
    const { conversation } = this;
    const { api, store } = this.#parts;
    const question = conversation.nodes[place].parent;
    const controller = new AbortController();
    this.#runs.set(conversation, controller);
    store.save(conversation);
    this.hooks.onBranch();
    this.hooks.onState();
    await Promise.all(
      answers.map((answer) => {
        const narrate = this.#narration(answer, conversation.nodes[place].answers.length > 1);
        const report = () => {
          narrate();
          store.saveSoon(conversation);
          this.hooks.onAnswer(conversation, place);
        };
        return fillAnswer(answer, { api, conversation, place: question, signal: controller.signal, report });
      }),
    );
    this.#runs.delete(conversation);
    conversation.updatedAt = Date.now();
    store.save(conversation);
    if (conversation === this.conversation) this.hooks.onBranch();
    this.hooks.onState();
    for (const { error } of answers) if (error) this.hooks.onError(error);
  }

  /** What is told of an answer: sentence by sentence, or as a whole where two models speak at once. */
  #narration(answer, isCompared) {
    const { announcer } = this.#parts;
    const narrator = new Narrator(announcer);
    return () => {
      const isOver = !["streaming", "waiting"].includes(answer.status);
      if (!isCompared) narrator.follow(answer);
      else if (isOver) announcer.say(`${answer.model} says: ${textFrom(answer.parts)}`);
      if (isOver) narrator.end(answer.error?.message ?? (answer.status === "stopped" ? "Stopped." : ""));
    };
  }

  /** Tries again what failed in the shown conversation for this reason. */
  retryAfter(kind) {
    const place = lastShown(this.conversation, "assistant");
    if (place === null) return;
    if (this.conversation.nodes[place].answers.some((answer) => answer.error?.kind === kind)) this.retry(place);
  }
}
