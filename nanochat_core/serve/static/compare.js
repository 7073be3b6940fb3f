// What two models said differently, word by word.
//
// The longest common subsequence of words decides; the beginning and the end that are equal are set aside first, so
// that the quadratic table is needed for the middle only. Marks are put into the drawn answer (its text nodes), so that
// they work inside lists and code too.

const NOT_SAID = ".code-head, .tool dl, .visually-hidden";
const MAX_TABLE = 6_000_000; // entries; two answers of about 2,400 differing words

/** For each word whether the other side has it too: {left, right}, arrays of booleans; null where that is too much. */
export function sharedWords(left, right) {
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start += 1;
  let end = 0;
  while (end < left.length - start && end < right.length - start && left.at(-1 - end) === right.at(-1 - end)) end += 1;
  const middle = common(left.slice(start, left.length - end), right.slice(start, right.length - end));
  if (!middle) return null;
  const around = (inside) => [...Array(start).fill(true), ...inside, ...Array(end).fill(true)];
  return { left: around(middle.left), right: around(middle.right) };
}

function common(left, right) {
  const [rows, columns] = [left.length, right.length];
  if (rows * columns > MAX_TABLE) return null;
  const width = columns + 1;
  const table = new Uint16Array((rows + 1) * width); // table[i, j]: common words of left[i:] and right[j:]
  for (let i = rows - 1; i >= 0; i -= 1) {
    for (let j = columns - 1; j >= 0; j -= 1) {
      table[i * width + j] =
        left[i] === right[j]
          ? table[(i + 1) * width + j + 1] + 1
          : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const shared = { left: Array(rows).fill(false), right: Array(columns).fill(false) };
  for (let i = 0, j = 0; i < rows && j < columns; ) {
    if (left[i] === right[j]) {
      shared.left[i] = shared.right[j] = true;
      i += 1;
      j += 1;
    } else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return shared;
}

/** Marks the differing words in two drawn answers; gives one sentence about the difference. */
export function markDifferences(left, right) {
  unmark(left);
  unmark(right);
  const [ours, theirs] = [wordsOf(left), wordsOf(right)];
  if (!ours.length || !theirs.length) return "";
  const shared = sharedWords(ours.map((word) => word.text), theirs.map((word) => word.text));
  if (!shared) return "The answers are too long to be compared word by word.";
  const num = shared.left.filter(Boolean).length;
  if (num === ours.length && num === theirs.length) return "Both say the same, word for word.";
  mark(ours, shared.left);
  mark(theirs, shared.right);
  const first = Math.min(...[shared.left, shared.right].map((flags) => flags.indexOf(false)).filter((at) => at >= 0));
  const percent = Math.round((200 * num) / (ours.length + theirs.length));
  return `They differ from word ${first + 1} on; ${percent}% of the words are shared.`;
}

/** The words of an element's text, each with the text node and the place it stands at. */
function wordsOf(root) {
  const words = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.parentElement.closest(NOT_SAID)) continue;
    for (const match of node.data.matchAll(/\S+/g)) words.push({ node, start: match.index, text: match[0] });
  }
  return words;
}

function mark(words, flags) {
  // from the last to the first, so that the places of those before stay right
  for (let at = words.length - 1; at >= 0; at -= 1) {
    if (flags[at]) continue;
    const { node, start, text } = words[at];
    const range = document.createRange();
    range.setStart(node, start);
    range.setEnd(node, start + text.length);
    range.surroundContents(document.createElement("mark"));
  }
}

function unmark(root) {
  for (const marked of root.querySelectorAll("mark")) marked.replaceWith(...marked.childNodes);
  root.normalize();
}
