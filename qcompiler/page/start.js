// Brings the page to life: choices, search, keyboard.
function colourBy(name) {
  view.colour = name;
  for (const button of find("colour").children) button.setAttribute("aria-checked", String(button.dataset.colour === name));
  drawStrip();
  drawLegend();
  list.draw();
}

const offered = Object.keys(COLOURS).filter(name => name === "bits" || most[name] > 0);
find("colour").append(...offered.map(name => make("button", {type: "button", role: "radio", "data-colour": name, on: {click: () => colourBy(name)}}, name)));

function all() {
  view.all = !view.all;
  refresh();
}
find("scope").hidden = !graph.nodes.length || !DATA.report.layers.length;
find("colour").hidden = !DATA.report.layers.length;
find("scope").addEventListener("click", all);

find("search").addEventListener("input", () => { view.query = find("search").value.trim().toLowerCase(); refresh(); find("layers").scrollTop = 0; list.draw(); });
find("search").addEventListener("keydown", event => {
  if (event.key === "Enter") { const first = rows.find(row => row.leaf); if (first) { choose(first.leaf, true); find("layers").focus(); } }
});
find("keys").addEventListener("click", () => find("help").showModal());
find("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});

function escape() {
  const search = find("search");
  if (document.activeElement === search) search.blur();
  else if (view.query) { search.value = ""; view.query = ""; refresh(); }
  else { view.chosen = null; drawPanel(null); list.draw(); }
}

function openChosen(open) {
  const row = rows.find(each => each.module && each.module.path === view.chosen);
  if (row && row.open !== open) toggle(row.module.path, rows.indexOf(row));
  else if (!row && !open && view.chosen && view.chosen.module) {
    const parent = rows.slice(0, rows.findIndex(each => each.leaf === view.chosen)).reverse().find(each => each.module && each.open);
    if (parent) { view.chosen = parent.module.path; drawPanel(null); list.reveal(rows.indexOf(parent)); }
  }
}

const ACTS = {
  "/": () => find("search").focus(), j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
  ArrowRight: () => openChosen(true), ArrowLeft: () => openChosen(false), a: () => graph.nodes.length && all(), "?": () => find("help").showModal(),
  c: () => colourBy(offered[(offered.indexOf(view.colour) + 1) % offered.length]),
};
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
  if (event.key === "Escape") { escape(); return; }
  const target = event.target;
  const elsewhere = target.closest("input, select, dialog") || (find("diff") && find("diff").contains(target));
  if (elsewhere || !ACTS[event.key]) return;
  event.preventDefault();
  ACTS[event.key]();
});

refresh();
colourBy("bits");
startCompare();
const first = leaves.find(leaf => leaf.worst && DATA.details[leaf.name]) || leaves.find(leaf => leaf.worst) || leaves.find(leaf => leaf.layer);
if (first) choose(first); else drawPanel(null);
