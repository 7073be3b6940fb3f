// From a step, or a jump in the loss, to the rows it learnt from, their documents, and the lines of the files.

import { element } from "./elements.js";
import { askForm, count, placeOf, table } from "./data_parts.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, EDGE] = [800, 220, 12];
const TRAININGS = [["pretrain", "pretraining"], ["sft", "fine-tuning"]];
const LISTED = 50;

/** The curve with the steps that rose most, and one step with its documents; without one the highest rise. */
export async function stepsPage(look) {
  const { training = "pretrain" } = look.query;
  const found = await look.ask("curve", { training });
  const step = Number(look.query.step ?? found.spikes[0]?.step ?? 1);
  const form = askForm(
    "Step",
    [
      { name: "training", label: "of", kind: "choice", value: training, choices: TRAININGS },
      { name: "step", label: "number", kind: "number", value: String(step), least: 1 },
    ],
    look.go,
  );
  const shown = await look.ask("step", { training, step });
  const linked = (each) => element("a", { href: look.link("steps", { training, step: each }) }, count(each));
  const spikes = found.spikes.map((each) => [
    linked(each.step), each.loss.toFixed(4), each.before.toFixed(4), `+${each.rise.toFixed(4)}`,
    `${each.above_others.toFixed(1)} times`,
  ]);
  return [
    element("h2", {}, "Steps"),
    form,
    curve(found, step),
    ...stepParts(look, shown),
    spikes.length &&
      table("The steps that rose most above the ten before", ["step", "loss", "before", "rise", "the usual"], spikes),
  ].filter(Boolean);
}

function stepParts(look, shown) {
  const of = shown.training === "pretrain" ? "text" : "conversations";
  const rowLink = (row) => element("a", { href: look.link("rows", { of, row }) }, count(row));
  const loss = shown.loss === null ? "" : `, loss ${shown.loss.toFixed(4)}`;
  const rows = shown.rows.slice(0, LISTED).flatMap((row) => [rowLink(row), " "]);
  const documents = shown.documents.slice(0, LISTED).map((one) => [
    (one.adds < 0 ? "" : "+") + one.adds.toFixed(4),
    one.loss.toFixed(3),
    one.num_tokens,
    of === "text"
      ? element("a", { href: look.link("document", { number: one.document }) }, placeOf(one))
      : placeOf(one),
    element("span", {}, ...one.rows.flatMap((row) => [rowLink(row), " "])),
    element("span", { className: "begins" }, one.text),
  ]);
  const measure = `What each document added to the step's mean loss, in nats, by ${shown.measure}`;
  return [
    element("h3", { id: "step-title" }, `Step ${count(shown.step)}${loss}`),
    element("p", { className: "facts" }, `${count(shown.rows.length)} rows: `, ...rows,
      shown.rows.length > LISTED && "…"),
    table(measure, ["adds", "loss", "tokens", "from", "rows", "begins"], documents),
    shown.documents.length > LISTED &&
      element("p", { className: "facts" }, `and ${count(shown.documents.length - LISTED)} more`),
  ].filter(Boolean);
}

/** The loss over the steps, with the highest rises and the chosen step marked. */
function curve({ curve: points, spikes, num_steps: numSteps }, step) {
  const losses = points.map(([, loss]) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const last = points.at(-1)?.[0] ?? 1;
  const x = (at) => EDGE + ((WIDTH - 2 * EDGE) * (at - 1)) / Math.max(1, last - 1);
  const y = (loss) => HEIGHT - EDGE - ((HEIGHT - 2 * EDGE) * (loss - low)) / Math.max(1e-9, high - low);
  const line = points.map(([at, loss], number) => `${number ? "L" : "M"}${x(at).toFixed(1)} ${y(loss).toFixed(1)}`);
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "curve",
    "aria-label": `Loss of ${count(numSteps)} steps, from ${losses[0]?.toFixed(2)} to ${losses.at(-1)?.toFixed(2)}` });
  drawn.append(svg("path", { d: `M${x(step)} ${EDGE / 2}V${HEIGHT - EDGE / 2}`, class: "chosen" }));
  drawn.append(svg("path", { d: line.join(""), class: "loss" }));
  drawn.append(...spikes.map((each) => svg("circle", { cx: x(each.step), cy: y(each.loss), r: 4, class: "spike" })));
  return drawn;
}

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}
