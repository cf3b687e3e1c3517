// Pictures of the panel: a histogram before and after with the grid below it, and the errors of channels.
const WIDE = 360, HIGH = 104, FOOT = 26;

function histogram(bars) {
  // Where each level has a bin of its own, the codes pile up there: then both sides are as tall as the picture.
  const count = bars.before.length, apart = (bars.grid || []).length > 0;
  const tallest = shares => Math.sqrt(Math.max(...shares, ...(apart ? [] : [...bars.before, ...bars.after]), 1));
  const x = index => index / count * WIDE, y = (share, most) => HIGH - Math.sqrt(share) / most * (HIGH - 6);
  const at = value => (value - bars.low) / (bars.width * count) * WIDE;
  const steps = shares => {
    const most = tallest(shares);
    return shares.map((share, index) => `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(share, most).toFixed(1)}H${x(index + 1).toFixed(1)}`).join("");
  };
  const parts = [];
  const high = bars.low + bars.width * count;
  if (bars.limits) {
    const [least, greatest] = bars.limits.map(limit => Math.min(Math.max(at(limit), 0), WIDE));
    const outside = (begin, end) => { if (end - begin > 1) parts.push(draw("rect", {class: "beyond", x: begin, y: 0, width: end - begin, height: HIGH})); };
    if (bars.limits[0] - 0.5 > bars.low) outside(0, least);
    if (bars.limits[1] + 0.5 < high) outside(greatest, WIDE);
  }
  parts.push(draw("path", {class: "before", d: `${steps(bars.before)}V${HIGH}H0Z`}));
  parts.push(draw("path", {class: "after", d: steps(bars.after)}));
  parts.push(draw("line", {class: "axis", x1: 0, x2: WIDE, y1: HIGH, y2: HIGH}));
  for (const level of bars.grid || []) parts.push(draw("line", {class: "level", x1: at(level), x2: at(level), y1: HIGH, y2: HIGH + 6}));
  if (bars.limits && !(bars.grid || []).length) {
    const [least, greatest] = bars.limits.map(at);
    parts.push(draw("path", {class: "level", d: `M${least} ${HIGH + 6}V${HIGH + 2}H${greatest}V${HIGH + 6}`, fill: "none"}));
  }
  const marks = bars.limits ? [bars.limits[0], bars.zero, bars.limits[1]] : [bars.low, high];
  for (const mark of new Set(marks)) {
    const place = Math.min(Math.max(at(mark), 12), WIDE - 12);
    parts.push(draw("text", {x: place, y: HIGH + 17}, words.number(mark)));
  }
  return draw("svg", {class: "chart", viewBox: `0 0 ${WIDE} ${HIGH + FOOT}`, role: "img", "aria-label": "histogram before and after"}, ...parts);
}

function histogramWords(bars) {
  if (bars.unit === "real") return "real values; the grid is chosen at each place or call, so that none is drawn";
  const scale = bars.scale[0] === bars.scale[1] ? `scale ${words.number(bars.scale[0])}` : `scales ${words.number(bars.scale[0])} … ${words.number(bars.scale[1])}`;
  return `in units of codes, ${scale}${bars.beyond ? `; ${words.share(bars.beyond)} beyond the grid` : ""}`;
}

function channels(tenths) {
  const known = tenths.map(value => value / 10).filter(value => Math.abs(value) < LIMIT_DB);
  const high = Math.min(Math.max(...known, 1), 60), width = WIDE / tenths.length, height = 46;
  const worst = Math.min(...tenths);
  const bars = tenths.map((value, index) => {
    const tall = Math.max(Math.min(value / 10, high), 0.02 * high) / high * height;
    const bar = draw("rect", {x: (index * width).toFixed(2), y: (height - tall).toFixed(1), width: Math.max(width - (width > 3 ? 1 : 0), 0.6).toFixed(2), height: tall.toFixed(1)}, draw("title", {}));
    bar.firstChild.textContent = `${words.db(value / 10)} dB`;
    if (value === worst && value / 10 < high / 1.15) bar.setAttribute("class", "low");
    return bar;
  });
  return draw("svg", {class: "bars", viewBox: `0 0 ${WIDE} ${height}`, role: "img", "aria-label": "decibels per channel"}, ...bars);
}

function channelWords(tenths) {
  const values = tenths.map(value => value / 10), ordered = [...values].sort((a, b) => a - b);
  return `worst ${words.db(ordered[0])} dB, median ${words.db(ordered[Math.floor(ordered.length / 2)])} dB`;
}
