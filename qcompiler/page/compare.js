// The passes on a line of time, and the texts of two of them side by side.
const texts = DATA.texts.steps ? DATA.texts : {lines: [], steps: {}};
const known = Object.keys(texts.steps).map(Number).sort((a, b) => a - b);
const unpacked = new Map();

function linesOf(step) {
  if (!unpacked.has(step)) {
    const pairs = texts.steps[step], found = [];
    for (let index = 0; index < pairs.length; index += 2) for (let line = 0; line < pairs[index + 1]; line += 1) found.push(pairs[index] + line);
    unpacked.set(step, found);
  }
  return unpacked.get(step);
}

const nameOf = line => { const match = /^\s*(?:input |param )?%(\w+)|^(program @)/.exec(texts.lines[line]); return match ? match[1] || match[2] : null; };
const namesIn = new Map();
function definitions(step) {
  if (!namesIn.has(step)) namesIn.set(step, new Map(linesOf(step).map(line => [nameOf(line), line])));
  return namesIn.get(step);
}

// Pairs of neighbouring steps between which the line of one of the nodes is another one.
function lineChanges(names) {
  const found = [];
  for (let index = 1; index < known.length; index += 1) {
    const before = definitions(known[index - 1]), after = definitions(known[index]);
    if (names.some(name => before.get(name) !== after.get(name))) found.push([known[index - 1], known[index]]);
  }
  return found;
}

// Lines that both have once keep their order along the longest rising run; what is between two of them differs.
function differences(before, after) {
  const once = lines => { const counts = new Map(); lines.forEach((line, index) => counts.set(line, counts.has(line) ? -1 : index)); return counts; };
  const places = once(before), others = once(after);
  const common = [];
  after.forEach((line, index) => { if (others.get(line) === index && (places.get(line) ?? -1) >= 0) common.push([places.get(line), index]); });
  const tails = [], previous = [];
  common.forEach(([place], index) => {
    let low = 0, high = tails.length;
    while (low < high) { const middle = (low + high) >> 1; if (common[tails[middle]][0] < place) low = middle + 1; else high = middle; }
    previous[index] = low ? tails[low - 1] : -1;
    tails[low] = index;
  });
  const anchors = [];
  for (let index = tails.length ? tails[tails.length - 1] : -1; index >= 0; index = previous[index]) anchors.push(common[index]);
  anchors.reverse().push([before.length, after.length]);
  const pairs = [];
  let i = 0, j = 0;
  for (const [left, right] of anchors) {
    pairs.push(...between(before.slice(i, left), after.slice(j, right)));
    if (left < before.length) pairs.push([before[left], after[right]]);
    [i, j] = [left + 1, right + 1];
  }
  return pairs;
}

// Lines of one name stand side by side.
function between(before, after) {
  const wanted = new Map(before.map((line, index) => [nameOf(line), index]));
  const pairs = [];
  let i = 0;
  for (const line of after) {
    const name = nameOf(line), place = name === null ? undefined : wanted.get(name);
    if (place === undefined || place < i) { pairs.push([null, line]); continue; }
    while (i < place) { pairs.push([before[i], null]); i += 1; }
    pairs.push([before[i], line]);
    i += 1;
  }
  while (i < before.length) { pairs.push([before[i], null]); i += 1; }
  return pairs;
}

let pairs = [];
const sides = find("diff") ? new List(find("diff"), null, 22, index => {
  const [left, right, skipped] = pairs[index];
  if (skipped) return make("div", {class: "row"}, make("code", {class: "skip"}, `  ${skipped} equal lines`), make("code", {class: "skip"}));
  const kind = left === right ? "" : left === null ? "new" : right === null ? "gone" : "edit";
  const side = (line, empty) => make("code", {class: line === null ? empty : kind, title: line === null ? "" : texts.lines[line].trim()}, line === null ? "" : texts.lines[line]);
  return make("div", {class: "row", role: "row", "data-kind": kind}, side(left, ""), side(right, ""));
}) : null;

function fold(every) {
  const near = 2, found = [];
  const keep = every.map(([left, right]) => left !== right);
  const close = keep.map((_, index) => keep.slice(Math.max(index - near, 0), index + near + 1).some(Boolean));
  for (let index = 0; index < every.length; index += 1) {
    if (close[index]) { found.push(every[index]); continue; }
    let end = index;
    while (end < every.length && !close[end]) end += 1;
    found.push([null, null, end - index]);
    index = end - 1;
  }
  return found;
}

function drawDifferences(name = null) {
  const every = differences(linesOf(Number(find("from").value)), linesOf(Number(find("to").value)));
  const count = test => every.filter(test).length;
  find("changes").textContent = `${count(([left]) => left === null)} added, ${count(([, right]) => right === null)} removed, ${count(([left, right]) => left !== null && right !== null && left !== right)} changed`;
  pairs = find("context").checked ? fold(every) : every;
  sides.box.scrollTop = 0;
  sides.show(pairs.length);
  const place = name === null ? -1 : pairs.findIndex(([left, right, skipped]) => !skipped && left !== right && [left, right].some(line => line !== null && nameOf(line) === name));
  if (place >= 0) sides.reveal(Math.max(place - 3, 0));
}

function compare(before, after, name = null) {
  find("from").value = before;
  find("to").value = after;
  drawDifferences(name);
  find("compare").scrollIntoView({block: "start"});
}

function drawTimeline() {
  const {steps} = DATA.report;
  const whole = steps.reduce((sum, step) => sum + step.seconds, 0) || 1;
  let passed = 0;
  const line = step => {
    const before = Math.max(...known.filter(number => number < step.number));
    const opens = known.includes(step.number) && Number.isFinite(before);
    const bar = make("i", {css: {left: `${100 * passed / whole}%`, width: `${100 * step.seconds / whole}%`}});
    passed += step.seconds;
    return make(opens ? "button" : "div", {class: "step", ...(opens ? {type: "button", title: "show what it changed", on: {click: () => compare(before, step.number)}} : {})},
      make("span", {class: "soft n"}, String(step.number)), make("code", {title: step.text}, step.text), make("span", {class: "time middle"}, bar),
      make("span", {class: "n"}, words.seconds(step.seconds)), make("span", {class: "n middle"}, `${step.edits} edits`),
      make("span", {class: "soft n middle", title: "largest relative difference in float64"}, step.error === null ? "" : `exact to ${step.error.toExponential(0)}`));
  };
  find("timeline").replaceChildren(...steps.map(line));
}

function startCompare() {
  if (!find("timeline")) return;
  drawTimeline();
  if (known.length < 2) return;
  find("compare").hidden = false;
  const names = new Map(DATA.report.steps.map(step => [step.number, step.text.split("{")[0]]));
  for (const id of ["from", "to"]) {
    find(id).replaceChildren(...known.map(step => make("option", {value: step}, `${step} ${names.get(step) || "start"}`)));
    find(id).addEventListener("change", () => drawDifferences());
  }
  find("context").addEventListener("change", () => drawDifferences());
  find("from").value = known[known.length - 2];
  find("to").value = known[known.length - 1];
  drawDifferences();
}
