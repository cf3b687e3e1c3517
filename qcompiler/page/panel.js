// What is known of one layer.
function drawPanel(leaf) {
  const panel = find("panel");
  if (!leaf) { panel.replaceChildren(make("p", {class: "soft"}, "Choose a layer to see its numbers, its histograms, and why it got them.")); return; }
  const {layer} = leaf;
  panel.replaceChildren(...[
    make("h2", {}, leaf.module || leaf.name),
    make("p", {class: "soft"}, make("code", {}, `%${leaf.name} = ${leaf.op}`)),
    leaf.node === null ? null : make("p", {class: "soft"}, make("code", {}, graph.words[graph.nodes[leaf.node][4]])),
    layer ? layerFacts(leaf) : null,
    ...reasons(leaf),
    ...pictures(leaf),
    ...history(leaf),
    ...neighbours(leaf),
  ].filter(Boolean));
  panel.scrollTop = 0;
}

function layerFacts(leaf) {
  const {layer} = leaf;
  const facts = [
    ["asked", layer.requested],
    ["runs", layer.realised],
    layer.kernel ? ["kernel", layer.kernel] : null,
    layer.float_bytes ? ["weights", `${words.bits(layer.bits)} bits each, ${words.size(layer.bytes)} of ${words.size(layer.float_bytes)}`] : null,
    layer.sqnr_db !== null ? ["SQNR", words.db(layer.sqnr_db) + (Math.abs(layer.sqnr_db) < LIMIT_DB ? " dB" : "")] : null,
    layer.error_share !== null ? ["error share", words.share(layer.error_share)] : null,
    leaf.seconds !== null ? ["latency", `${words.seconds(leaf.seconds)} predicted`] : null,
  ];
  return make("dl", {}, ...facts.filter(Boolean).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function reasons(leaf) {
  const found = [];
  const {layer} = leaf;
  if (layer && layer.reason) found.push(make("p", {class: leaf.fallen ? "note" : "soft"}, layer.reason, layer.mend ? make("span", {}, ` Mend: ${layer.mend}`) : null));
  const steps = new Map(DATA.report.steps.map(step => [step.number, step.text.split("{")[0]]));
  const refused = DATA.refusals.filter(([, node, reason]) => node === leaf.name && !(layer && reason === layer.reason));
  if (refused.length) found.push(make("h3", {}, "Left alone by"));
  for (const [step, , reason, mend] of refused) found.push(make("p", {}, make("code", {}, steps.get(step) || String(step)), `: ${reason}`, mend ? make("span", {class: "soft"}, ` (${mend})`) : null));
  return found;
}

function pictures(leaf) {
  const details = DATA.details[leaf.name];
  if (!details) return [];
  const found = [];
  const key = () => make("p", {class: "key"}, make("i", {css: {background: "var(--ghost)"}}), "before", make("i", {css: {background: "var(--accent)"}}), "after quantization");
  for (const [name, bars] of Object.entries(details)) {
    if (name === "channels") continue;
    found.push(make("h3", {}, `${name}: ${bars.spec}`), histogram(bars), key(), make("p", {class: "key"}, histogramWords(bars)));
    if (bars.channels) found.push(make("h3", {}, `${name}: decibels per row`), channels(bars.channels), make("p", {class: "key"}, channelWords(bars.channels)));
  }
  if (details.channels) found.push(make("h3", {}, "result: decibels per channel"), channels(details.channels), make("p", {class: "key"}, channelWords(details.channels)));
  return found;
}

// Names of the parameters that a layer reads, as codes or as they are.
function weightsOf(leaf) {
  if (leaf.node === null) return [];
  const isParam = index => graph.words[graph.nodes[index][1]] === "param";
  const codes = index => graph.words[graph.nodes[index][1]] === "qc.dequantize" ? graph.nodes[index][5].slice(0, 1) : [index];
  return graph.nodes[leaf.node][5].flatMap(codes).filter(isParam).map(index => graph.nodes[index][0]);
}

function history(leaf) {
  const changes = lineChanges([leaf.name, ...weightsOf(leaf)]);
  if (!changes.length) return [];
  const names = new Map(DATA.report.steps.map(step => [step.number, step.text]));
  return [make("h3", {}, "Changed by"), make("p", {class: "links"}, ...changes.map(([before, after]) =>
    make("button", {type: "button", title: names.get(after) || "", on: {click: () => compare(before, after, leaf.name)}}, `${after} ${(names.get(after) || "").split("{")[0]}`)))];
}

function neighbours(leaf) {
  if (leaf.node === null) return [];
  const link = index => {
    const name = graph.nodes[index][0], other = leafOf.get(name);
    const text = other ? other.module && other.layer ? other.module : name : name;
    return other ? make("button", {type: "button", title: `${name} ${other.op}`, on: {click: () => choose(other, true)}}, text) : make("code", {class: "soft"}, name);
  };
  const some = (title, nodes) => nodes.length ? [make("h3", {}, title), make("p", {class: "links"}, ...nodes.slice(0, 12).map(link), nodes.length > 12 ? make("span", {class: "soft"}, `and ${nodes.length - 12} more`) : null)] : [];
  return [...some("Reads", graph.nodes[leaf.node][5]), ...some("Read by", readers[leaf.node])];
}
