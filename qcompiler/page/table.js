// The tree of layers as a table, with the flow of data as arcs at its left edge, and the strip above it.
const HEADINGS = [["name", "Layer", ""], ["bits", "Bits", "n"], ["sqnr", "SQNR", "n"], ["share", "Error share", "middle"], ["bytes", "Bytes", "wide"], ["runs", "Runs", "wide"]];
let rows = [];

const head = make("div", {class: "head", role: "row"}, make("span"), ...HEADINGS.map(([key, text, kind]) =>
  make("span", {class: kind, role: "columnheader", "data-key": key}, make("button", {type: "button", on: {click: () => sortBy(key)}}, text))));
find("layers").classList.add("layers");
const list = new List(find("layers"), head, 30, index => tableRow(rows[index], index), drawArcs);
const arcs = draw("svg", {class: "arcs"});
list.body.before(arcs);

function sortBy(key) {
  if (view.sort !== key) { view.sort = key; view.up = key === "name" || key === "sqnr" || key === "runs"; }
  else if (view.up === (key === "name" || key === "sqnr" || key === "runs")) view.up = !view.up;
  else view.sort = null;
  refresh();
}

function meter(value, share, text, colour, kind) {
  return make("span", {class: `meter ${kind}`}, make("i", {css: colour ? {"--c": colour} : {}}, make("b", {css: {width: `${100 * Math.min(share, 1)}%`}})), make("span", {}, value === null ? "–" : text));
}

function tableRow(row, index) {
  const {leaf, module} = row;
  const sum = module ? module.sum : row.sum || total({leaf});
  const layer = leaf ? leaf.layer : null;
  const indent = make("span", {css: {flex: "none", width: `${14 * row.depth}px`}});
  const caret = make("span", {class: "caret"}, module ? row.open ? "▾" : "▸" : "");
  const dot = make("span", {class: "dot", css: {"--c": leaf ? colourOf(leaf) : moduleColour(module)}});
  const name = make("span", {class: "name", title: leaf ? `${leaf.module} ${leaf.name}` : module.path}, indent, caret, dot, make("span", {class: "text"}, row.label || "(model)"));
  if (leaf && leaf.worst) name.append(make("span", {class: "tag worst"}, "most error"));
  if (leaf && leaf.fallen) name.append(make("span", {class: "tag fallen"}, "not as asked"));
  if (module) name.append(make("span", {class: "soft", css: {"margin-left": ".5rem"}}, `${sum.layers || sum.count}`));
  const hasBytes = sum.float > 0;
  return make("div", {
    class: `row ${module ? "module" : layer ? "" : "other"}`, role: "row", "aria-selected": String(leaf ? leaf === view.chosen : module.path === view.chosen),
    "data-name": leaf ? leaf.name : module.path, ...(module ? {"aria-expanded": String(row.open)} : {}),
    on: {click: () => module ? toggle(module.path, index) : choose(leaf)},
  }, make("span"), name,
  make("span", {class: "n"}, hasBytes ? words.bits(sum.bits / sum.float) : layer || module ? "–" : ""),
  make("span", {class: "n"}, layer || module ? words.db(sum.sqnr) : ""),
  layer || module ? meter(sum.layers ? sum.share : null, module ? sum.share : most.error ? sum.share / most.error : 0, words.share(sum.share), module ? "var(--ghost)" : null, "middle") : make("span", {class: "middle"}),
  layer || module ? meter(hasBytes ? sum.bytes : null, hasBytes ? sum.bytes / sum.float : 0, words.size(sum.bytes), module ? "var(--ghost)" : "var(--accent)", "wide") : make("span", {class: "wide"}),
  make("span", {class: "wide", title: layer ? layer.realised : ""}, layer ? layer.realised : leaf ? leaf.op : ""));
}

function moduleColour(module) {
  const {sum} = module;
  if (view.colour === "bits") return sum.float ? `var(--${groupOf(sum.bits / sum.float)[1]})` : "var(--track)";
  if (view.colour === "error") return `color-mix(in oklab, var(--heat) ${Math.round(100 * Math.sqrt(Math.min(sum.share, 1)))}%, var(--track))`;
  return "var(--ghost)";
}

// Edges between rows: operators that are not shown hand on what they read; closed modules stand for what they hold.
let edges = [];
let edgesOf = new Map();
function findEdges() {
  const rowOf = new Map();
  const mark = (item, index) => item.leaf ? rowOf.set(item.leaf.node, index) : item.children.forEach(child => mark(child, index));
  rows.forEach((row, index) => row.leaf ? rowOf.set(row.leaf.node, index) : row.open || mark(row.module, index));
  const behind = [];
  const seen = new Set();
  edges = [];
  edgesOf = new Map();
  graph.nodes.forEach((node, index) => {
    const sources = new Set();
    for (const source of node[5]) for (const row of behind[source]) if (sources.size < 8) sources.add(row);
    const own = rowOf.get(index);
    behind.push(own === undefined ? sources : new Set([own]));
    if (own === undefined) return;
    for (const source of sources) {
      const key = source * rows.length + own;
      if (source === own || seen.has(key)) continue;
      seen.add(key);
      const edge = [source, own];
      edges.push(edge);
      for (const end of edge) { if (!edgesOf.has(end)) edgesOf.set(end, []); edgesOf.get(end).push(edge); }
    }
  });
}

function drawArcs(first, last) {
  if (view.sort || list.whole) { arcs.replaceChildren(); return; }
  arcs.style.top = `${list.top}px`;
  arcs.setAttribute("height", list.count * list.height);
  const chosen = rows.findIndex(row => row.leaf ? row.leaf === view.chosen : row.module.path === view.chosen);
  const inSight = new Set(), end = arcs.clientWidth - 2;
  for (let index = first; index < last; index += 1) for (const edge of edgesOf.get(index) || []) if (inSight.size < 400) inSight.add(edge);
  for (const edge of edgesOf.get(chosen) || []) inSight.add(edge);
  const y = index => (index + 0.5) * list.height;
  arcs.replaceChildren(...[...inSight].map(edge => {
    const [from, to] = edge, depth = Math.max(end - 6 - 7 * Math.log2(1 + Math.abs(to - from)), 3);
    return draw("path", {class: edge[1] === chosen ? "in" : edge[0] === chosen ? "out" : "", d: `M${end} ${y(from)}C${depth} ${y(from)} ${depth} ${y(to)} ${end} ${y(to)}`});
  }));
}

function drawStrip() {
  const layers = leaves.filter(leaf => leaf.layer);
  const cells = Math.min(layers.length, 500), size = layers.length / Math.max(cells, 1);
  const of = COLOURS[view.colour].of;
  const svg = draw("svg", {viewBox: `0 0 ${Math.max(cells, 1)} 10`, preserveAspectRatio: "none"});
  for (let cell = 0; cell < cells; cell += 1) {
    const part = layers.slice(Math.floor(cell * size), Math.max(Math.floor((cell + 1) * size), Math.floor(cell * size) + 1));
    const leaf = part.reduce((a, b) => (of(b) ?? -1) > (of(a) ?? -1) ? b : a);
    const rect = draw("rect", {x: cell, y: 0, width: 1.02, height: 10, "data-name": leaf.name}, draw("title"));
    rect.style.fill = colourOf(leaf);
    rect.firstChild.textContent = `${leaf.module || leaf.name}: ${told(leaf)}`;
    rect.addEventListener("click", () => choose(leaf, true));
    svg.append(rect);
  }
  find("strip").replaceChildren(...(cells ? [svg] : []));
}

function told(leaf) {
  const value = COLOURS[view.colour].of(leaf);
  return value === null || value === undefined ? "–" : COLOURS[view.colour].text(value) + (view.colour === "bits" ? " bits" : "");
}

function drawLegend() {
  const legend = find("legend");
  if (view.colour === "bits") {
    const used = new Set(leaves.filter(leaf => leaf.layer && leaf.layer.float_bytes).map(leaf => groupOf(leaf.layer.bits)));
    legend.replaceChildren(...GROUPS.filter(group => used.has(group)).map(group => make("span", {}, make("span", {class: "dot", css: {"--c": `var(--${group[1]})`}}), group[2])));
  } else legend.replaceChildren(make("span", {}, "0", make("span", {class: "ramp"}), COLOURS[view.colour].text(most[view.colour])), make("span", {}, view.colour === "latency" ? DATA.seconds_from : ""));
  legend.append(make("span", {}, "execution order from left to right; arcs: who reads whom"));
}

function toggle(path, index) {
  view.chosen = path;
  if (view.open.has(path)) view.open.delete(path); else view.open.add(path);
  refresh();
  list.reveal(Math.min(index, rows.length - 1));
}

function choose(leaf, reveal = false) {
  view.chosen = leaf;
  if (reveal) {
    if (!leaf.layer && !view.all) { view.all = true; view.query = ""; find("search").value = ""; }
    const parts = leaf.module.split(".");
    parts.forEach((part, index) => view.open.add(parts.slice(0, index + 1).join(".")));
    refresh();
    const index = rows.findIndex(row => row.leaf === leaf);
    if (index >= 0) list.reveal(index);
  } else list.draw();
  drawPanel(leaf);
}

function move(step) {
  const now = rows.findIndex(row => row.leaf ? row.leaf === view.chosen : row.module.path === view.chosen);
  const next = Math.min(Math.max(now < 0 ? 0 : now + step, 0), rows.length - 1);
  if (!rows.length) return;
  view.chosen = rows[next].leaf || rows[next].module.path;
  drawPanel(rows[next].leaf || null);
  list.reveal(next);
}

function refresh() {
  rows = rowsOf();
  for (const heading of head.children) {
    if (heading.dataset.key === view.sort && view.sort) heading.setAttribute("aria-sort", view.up ? "ascending" : "descending");
    else heading.removeAttribute("aria-sort");
  }
  if (view.sort) edgesOf = new Map(); else findEdges();
  list.empty = view.query ? "nothing is called so" : "there are no layers";
  list.show(rows.length);
  find("count").textContent = view.query ? `${leaves.filter(shown).length} found` : "";
  find("scope").setAttribute("aria-pressed", String(view.all));
}
