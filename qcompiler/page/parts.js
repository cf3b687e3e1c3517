// Small parts that all others need: elements, numbers as words, and a list that only draws the rows in sight.
const DATA = JSON.parse(document.getElementById("data").textContent);
const find = id => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name === "css") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(find("svg").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const LIMIT_DB = 300;
const words = {
  size(count) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let value = count, unit = 0;
    while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
    return `${unit === 0 || value >= 100 ? value.toFixed(0) : Number(value.toPrecision(3))} ${units[unit]}`;
  },
  db: value => value === null || value === undefined ? "–" : value >= LIMIT_DB ? "exact" : value <= -LIMIT_DB ? "lost" : value.toFixed(1),
  share: value => value === null || value === undefined ? "–" : `${(100 * value).toFixed(value < 0.001 && value > 0 ? 2 : 1)} %`,
  bits: value => value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))),
  seconds: value => value < 1e-3 ? `${Number((1e6 * value).toPrecision(3))} µs` : value < 1 ? `${Number((1e3 * value).toPrecision(3))} ms` : value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`,
  number: value => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(3))),
};

// A list of equally high rows in a scrolling element; `row(index)` makes one. `after` is told which are in sight.
class List {
  constructor(box, head, height, row, after = () => {}) {
    Object.assign(this, {box, height, row, after, count: 0, whole: false, empty: ""});
    this.body = make("div", {class: "body", role: "rowgroup"});
    box.replaceChildren(...(head ? [head] : []), this.body);
    this.top = head ? height : 0;
    box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(box);
    addEventListener("beforeprint", () => { this.whole = true; this.draw(); });
    addEventListener("afterprint", () => { this.whole = false; this.draw(); });
  }
  show(count) { this.count = count; this.body.style.height = count ? `${count * this.height}px` : "auto"; this.draw(); }
  draw() {
    const extra = 8, most = 3000;
    const first = this.whole ? 0 : Math.max(Math.floor(this.box.scrollTop / this.height) - extra, 0);
    const last = Math.min(this.whole ? most : Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.height) + extra, this.count);
    const rows = [];
    for (let index = first; index < last; index += 1) {
      const row = this.row(index);
      row.style.top = `${index * this.height}px`;
      rows.push(row);
    }
    this.body.replaceChildren(...(this.count ? rows : [make("p", {class: "empty"}, this.empty)]));
    this.after(first, last);
  }
  reveal(index) {
    const begin = index * this.height, room = this.box.clientHeight - this.top - this.height;
    if (begin < this.box.scrollTop) this.box.scrollTop = begin;
    else if (begin > this.box.scrollTop + room) this.box.scrollTop = begin - room;
    this.draw();
  }
}
