// What is shown as one value: leaves (layers and other operators), the modules they lie in, and who reads whom.
const leaves = [];
const leafOf = new Map();
const graph = DATA.graph.nodes ? DATA.graph : {words: [], nodes: []};
const nodeOf = new Map(graph.nodes.map((node, index) => [node[0], index]));
const readers = graph.nodes.map(() => []);
graph.nodes.forEach((node, index) => { for (const source of node[5]) readers[source].push(index); });

function addLeaf(leaf) {
  leaf.number = leaves.length;
  leafOf.set(leaf.name, leaf);
  leaves.push(leaf);
}

(() => {
  const layers = new Map(DATA.report.layers.map(layer => [layer.name, layer]));
  const worst = new Set(DATA.worst);
  const leaf = (layer, node) => ({
    layer, node, name: layer ? layer.name : graph.nodes[node][0],
    module: layer ? layer.module : graph.words[graph.nodes[node][2]],
    op: layer ? layer.op : graph.words[graph.nodes[node][1]],
    worst: layer ? worst.has(layer.name) : false,
    fallen: Boolean(layer && layer.reason && layer.requested !== "float"),
    seconds: DATA.seconds[layer ? layer.name : graph.nodes[node][0]] ?? null,
  });
  graph.nodes.forEach((node, index) => {
    if (graph.words[node[1]] !== "param") addLeaf(leaf(layers.get(node[0]) || null, index));
    layers.delete(node[0]);
  });
  for (const layer of layers.values()) addLeaf(leaf(layer, null));
  for (const item of leaves) item.text = `${item.name} ${item.module} ${item.op} ${item.layer ? `${item.layer.requested} ${item.layer.realised} ${item.layer.kernel} ${item.layer.reason}` : ""}`.toLowerCase();
})();

const COLOURS = {
  bits: {of: leaf => leaf.layer && leaf.layer.float_bytes ? leaf.layer.bits : null, text: words.bits},
  error: {of: leaf => leaf.layer ? leaf.layer.error_share : null, text: words.share},
  latency: {of: leaf => leaf.seconds, text: words.seconds},
  bytes: {of: leaf => leaf.layer && leaf.layer.float_bytes ? leaf.layer.bytes : null, text: words.size},
};
const GROUPS = [[2.99, "b2", "2 bits"], [5.99, "b4", "4 bits"], [9.99, "b8", "8 bits"], [17, "b16", "16 bits"], [Infinity, "b32", "float"]];
const groupOf = bits => GROUPS.find(group => bits <= group[0]);

const view = {colour: "bits", all: !DATA.report.layers.length, sort: null, up: false, query: "", open: new Set(), chosen: null};
const most = {};
for (const [name, colour] of Object.entries(COLOURS)) most[name] = Math.max(0, ...leaves.map(leaf => colour.of(leaf) ?? 0));

function colourOf(leaf, name = view.colour) {
  const value = COLOURS[name].of(leaf);
  if (value === null || value === undefined) return "var(--track)";
  if (name === "bits") return `var(--${groupOf(value)[1]})`;
  return `color-mix(in oklab, var(--heat) ${Math.round(100 * Math.sqrt(most[name] ? value / most[name] : 0))}%, var(--track))`;
}

const shown = leaf => (view.all || leaf.layer !== null) && (!view.query || leaf.text.includes(view.query));

// The tree of modules over the leaves that are shown; a module with one leaf is that leaf.
function tree() {
  const root = {path: "", children: [], modules: new Map()};
  for (const leaf of leaves) {
    if (!shown(leaf)) continue;
    let place = root;
    const parts = leaf.module ? leaf.module.split(".") : [];
    parts.forEach((part, depth) => {
      let next = place.modules.get(part);
      if (!next) {
        next = {path: parts.slice(0, depth + 1).join("."), label: part, children: [], modules: new Map()};
        place.modules.set(part, next);
        place.children.push(next);
      }
      place = next;
    });
    place.children.push({leaf, label: leaf.name});
  }
  return root;
}

function total(item) {
  if (item.leaf) {
    const layer = item.leaf.layer;
    item.sum = {count: 1, bits: layer ? layer.bits * layer.float_bytes : 0, layers: layer ? 1 : 0, bytes: layer ? layer.bytes : 0, float: layer ? layer.float_bytes : 0, share: layer ? layer.error_share || 0 : 0, sqnr: layer ? layer.sqnr_db : null, fallen: item.leaf.fallen ? 1 : 0};
    return item.sum;
  }
  item.sum = {count: 0, bits: 0, layers: 0, bytes: 0, float: 0, share: 0, sqnr: null, fallen: 0};
  for (const child of item.children) {
    const sum = total(child);
    for (const key of ["count", "bits", "layers", "bytes", "float", "share", "fallen"]) item.sum[key] += sum[key];
    if (sum.sqnr !== null) item.sum.sqnr = item.sum.sqnr === null ? sum.sqnr : Math.min(item.sum.sqnr, sum.sqnr);
  }
  return item.sum;
}

// Rows in order of the tree, or sorted leaves.
function rowsOf() {
  if (view.sort) return sorted().map(leaf => ({leaf, label: leaf.module || leaf.name, depth: 0}));
  const rows = [];
  const root = tree();
  total(root);
  const walk = (item, depth, label) => {
    if (item.leaf) { rows.push({...item, label, depth}); return; }
    if (item.children.length === 1) {
      const child = item.children[0];
      walk(child, depth, child.leaf ? label : `${label}.${child.label}`);
      return;
    }
    const open = Boolean(view.query) || view.open.has(item.path);
    rows.push({module: item, label, depth, open});
    if (open) for (const child of item.children) walk(child, depth + 1, child.label);
  };
  for (const child of root.children) walk(child, 0, child.label);
  return rows;
}

const KEYS = {
  name: leaf => leaf.module || leaf.name,
  bits: COLOURS.bits.of,
  sqnr: leaf => leaf.layer ? leaf.layer.sqnr_db : null,
  share: COLOURS.error.of,
  bytes: COLOURS.bytes.of,
  runs: leaf => leaf.layer ? leaf.layer.realised : null,
};

function sorted() {
  const key = KEYS[view.sort], sign = view.up ? 1 : -1;
  const known = [], unknown = [];
  for (const leaf of leaves) if (shown(leaf)) (key(leaf) === null || key(leaf) === undefined ? unknown : known).push(leaf);
  const order = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true});
  return [...known.sort((a, b) => sign * order(key(a), key(b))), ...unknown];
}

function openAll(item, budget) {
  let level = item.children.filter(child => child.modules);
  let rows = item.children.length;
  while (level.length) {
    const next = [];
    for (const module of level) {
      rows += module.children.length;
      if (rows > budget && module.path.includes(".")) return;
      view.open.add(module.path);
      next.push(...module.children.filter(child => child.modules));
    }
    level = next;
  }
}
openAll(tree(), 600);
