"use strict";
// Sorting, filtering and the interactive charts. The page is complete without it; names only ever become text nodes.
(() => {
  const numbers = JSON.parse(document.getElementById("numbers").textContent);
  const form = document.getElementById("filter");
  if (!form) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const words = new Intl.Collator("en", { numeric: true });

  function make(name, attributes = {}, ...children) {
    const svg = "svg g path text title rect clipPath use".split(" ").includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const live = make("p", { role: "status", class: "spoken" });
  document.body.append(live);
  const say = (text) => { live.textContent = text; };

  // --- Rows: what the script knows of them, and the order in which the page came -------------------------------------------

  const boards = numbers.charts.map((chart) => {
    const section = document.getElementById(chart.slug);
    const body = section.querySelector("tbody");
    const rows = [...body.rows].map((row, index) => {
      const [, method, rule] = row.cells;
      const [record, fixed, accuracy, low, high, latency, early, late, spikes, synops, energy] = chart.rows[index];
      return {
        row, index, record, fixed, accuracy, low, high, early, late,
        x: { latency, spikes, synops, energy },
        method: method.dataset.value,
        best: "best" in row.dataset,
        guaranteed: "guaranteed" in row.dataset,
        text: [method, rule, row.cells[row.cells.length - 1]].map((cell) => cell.textContent).join(" ").replace(/\s+/g, " ").toLowerCase(),
        shown: true,
      };
    });
    return { chart, section, body, rows, order: rows, sort: null, chosen: null, limit: 0 };
  });
  const named = (cell) => [...cell.childNodes].map((part) => part.textContent).join(" ");

  const COLUMNS = [...document.querySelector("thead tr").cells].map((head) => head.dataset.key);

  // --- State in the address, so that a view can be shared ------------------------------------------------------------------

  const OPTIONS = ["log", "whole", "published"];
  const option = (board, name) => board.section.querySelector(`.choices [name=${name}]`);
  const axis = (board) => board.section.querySelector(".choices [type=radio]:checked").value;

  function remember() {
    const state = new URLSearchParams();
    for (const name of ["q", "method"]) if (form.elements[name].value) state.set(name, form.elements[name].value);
    for (const name of ["guaranteed", "best"]) if (form.elements[name].checked) state.set(name, "1");
    for (const board of boards) {
      const slug = board.chart.slug;
      if (board.sort) state.set(`${slug}.sort`, `${board.sort.key}.${board.sort.order}`);
      if (axis(board) !== "latency") state.set(`${slug}.x`, axis(board));
      for (const name of OPTIONS) {
        const box = option(board, name);
        if (box.checked !== box.defaultChecked) state.set(`${slug}.${name}`, box.checked ? "1" : "0");
      }
    }
    const hash = state.toString();
    if (hash || location.hash.includes("=")) history.replaceState(null, "", `#${hash}`);
  }

  function recall() {
    const anchor = location.hash.length > 1 && !location.hash.includes("=");
    const state = new URLSearchParams(anchor ? "" : location.hash.slice(1));
    form.elements.q.value = state.get("q") ?? "";
    const method = state.get("method") ?? "";
    form.elements.method.value = [...form.elements.method.options].some((each) => each.value === method) ? method : "";
    for (const name of ["guaranteed", "best"]) form.elements[name].checked = state.has(name);
    for (const board of boards) {
      const slug = board.chart.slug;
      const radios = [...board.section.querySelectorAll(".choices [type=radio]")];
      (radios.find((radio) => radio.value === state.get(`${slug}.x`)) ?? radios[0]).checked = true;
      for (const name of OPTIONS) {
        const box = option(board, name);
        box.checked = state.has(`${slug}.${name}`) ? state.get(`${slug}.${name}`) === "1" : box.defaultChecked;
      }
      const [key, order] = (state.get(`${slug}.sort`) ?? "").split(".");
      const known = board.section.querySelector(`thead th[data-key="${CSS.escape(key)}"]`);
      const valid = known && ["ascending", "descending"].includes(order);
      sort(board, valid ? key : null, order);
    }
    filter();
  }

  // --- Sorting -------------------------------------------------------------------------------------------------------------

  function sort(board, key, order) {
    if (!key && !board.sort) return;
    board.sort = key ? { key, order } : null;
    const heads = [...board.section.querySelectorAll("thead th")];
    for (const head of heads) {
      if (head.dataset.key === key) head.setAttribute("aria-sort", order);
      else head.removeAttribute("aria-sort");
    }
    const column = heads.findIndex((head) => head.dataset.key === key);
    const text = column >= 0 && "text" in heads[column].dataset;
    const sign = order === "descending" ? -1 : 1;
    const keyed = board.rows.map((each) => {
      const value = column < 0 ? each.index : each.row.cells[column].dataset.value;
      return { each, value: value === undefined || text ? value : Number(value) };
    });
    keyed.sort((one, other) => {
      // What has no value stands last in either order; equals keep the order of the page.
      const missing = (one.value === undefined) - (other.value === undefined);
      if (missing) return missing;
      const apart = one.value === undefined ? 0
        : text ? words.compare(one.value, other.value) : one.value - other.value;
      return sign * apart || one.each.index - other.each.index;
    });
    board.order = keyed.map(({ each }) => each);
    arrange(board);
  }

  // Only rows that are seen stand in the document: laying out thousands takes seconds, and nobody scrolls past 200 cards.
  function arrange(board) {
    const found = board.order.filter((each) => each.shown);
    board.body.replaceChildren(...found.slice(0, board.limit).map((each) => each.row));
    board.more.hidden = found.length <= board.limit;
    board.more.textContent = `Show all ${found.length} rows`;
  }

  const narrow = matchMedia("(max-width: 47.99rem)");
  const limits = () => { for (const board of boards) board.limit = narrow.matches ? 12 : 200; };
  limits();
  narrow.addEventListener("change", () => { limits(); boards.forEach(arrange); });
  addEventListener("beforeprint", () => { for (const board of boards) { board.limit = Infinity; arrange(board); } });
  addEventListener("afterprint", () => { limits(); boards.forEach(arrange); });
  for (const board of boards) {
    board.more = make("button", { type: "button", class: "more", hidden: "" });
    board.section.querySelector(".scroll").after(board.more);
    board.more.addEventListener("click", () => {
      const first = board.body.rows.length;
      board.limit = Infinity;
      arrange(board);
      board.body.rows[first].querySelector(".show").focus();
      say(`${board.body.rows.length} rows are shown.`);
    });
  }

  for (const board of boards) {
    for (const head of board.section.querySelectorAll("thead th")) {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.dataset.first;
        const other = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        sort(board, head.dataset.key, order);
        remember();
        say(`Sorted by ${named(button)}, ${order}.`);
      });
    }
  }

  // --- Filtering -----------------------------------------------------------------------------------------------------------

  function filter() {
    const wanted = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const method = form.elements.method.value;
    const guaranteed = form.elements.guaranteed.checked;
    const best = form.elements.best.checked;
    let found = 0, total = 0;
    for (const board of boards) {
      let here = 0;
      for (const each of board.rows) {
        each.shown = (!method || each.method === method) && (!guaranteed || each.guaranteed) && (!best || each.best)
          && wanted.every((word) => each.text.includes(word));
        here += each.shown;
      }
      board.section.querySelector(".none").hidden = here > 0;
      for (const key of board.section.querySelectorAll(".legend button")) {
        key.setAttribute("aria-pressed", key.parentElement.dataset.method === method);
      }
      found += here;
      total += board.rows.length;
      arrange(board);
      draw(board);
    }
    form.elements.count.value = `${found} of ${total} rows`;
  }

  const filtered = () => { filter(); remember(); };
  form.elements.q.addEventListener("input", filtered);
  form.addEventListener("change", (event) => { if (event.target !== form.elements.q) filtered(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.reset.addEventListener("click", () => {
    for (const name of ["q", "method"]) form.elements[name].value = "";
    for (const name of ["guaranteed", "best"]) form.elements[name].checked = false;
    for (const board of boards) sort(board, null);
    filtered();
    say("Filter and order are as at first.");
  });

  // --- Charts --------------------------------------------------------------------------------------------------------------

  const AXES = {
    latency: "latency (timesteps, prelude included)",
    spikes: "spikes per image",
    synops: "SynOps per image",
    energy: "energy per image (INT8 arithmetic)",
  };
  const UNITS = { spikes: ["", "k", "M", "G", "T"], synops: ["", "k", "M", "G", "T"], energy: ["p", "n", "µ", "m", ""] };
  const LEFT = 48, RIGHT = 14, TOP = 10, BOTTOM = 42, SIZE = 5, FIRST = 1e-9;
  const short = (value) => Math.floor(10 * value + 0.5) / 10;
  const range = (from, to) => Array.from({ length: Math.max(0, to - from + 1) }, (_, index) => from + index);

  function linearTicks(low, high, about = 5) {
    const rough = (high - low) / about;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * (1 - 1e-9));
    return range(Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)).map((each) => Number((each * step).toPrecision(10)));
  }

  function logTicks(low, high, base) {
    const log = (value) => Math.log(value) / Math.log(base);
    const powers = range(Math.ceil(log(low) - 1e-9), Math.floor(log(high) + 1e-9)).map((power) => base ** power);
    if (base === 2 || powers.length > 3) return powers;
    const between = range(Math.floor(log(low)), Math.ceil(log(high))).flatMap((power) => [1, 2, 5].map((factor) => factor * base ** power));
    return between.filter((tick) => tick >= low && tick <= high);
  }

  function xAxis(values, name, logarithmic) {
    let low = Math.min(...values), high = Math.max(...values);
    if (logarithmic) {
      low = Math.max(low, FIRST) / 1.08;
      high = Math.max(high, FIRST) * 1.08;
      const ticks = high < 4 * low ? linearTicks(low, high) : logTicks(low, high, name === "latency" ? 2 : 10);
      const span = Math.log(high / low);
      return { low, high, ticks, place: (value) => Math.log(Math.max(value, FIRST) / low) / span };
    }
    const margin = 0.04 * (high - low) || 1;
    low = low >= 0 ? Math.max(0, low - margin) : low - margin;
    high += margin;
    return { low, high, ticks: linearTicks(low, high, 6), place: (value) => (value - low) / (high - low) };
  }

  function tickText(value, name) {
    if (!(name in UNITS)) return String(value);
    const power = value > 0 ? Math.min(Math.max(Math.floor(Math.log10(value) / 3 + 1e-9), 0), 4) : 0;
    const text = String(Number((value / 1000 ** power).toPrecision(6)));
    return name === "energy" ? `${text} ${UNITS[name][power]}J` : text + UNITS[name][power];
  }

  const extremes = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

  // Everything of a chart that has a place: rows, oracles and, where asked for, what others published.
  function marks(board, name) {
    const { chart, rows } = board;
    const shown = rows.filter((each) => each.shown && Number.isFinite(each.x[name]));
    const records = new Set(shown.map((each) => each.record));
    const found = shown.map((each) => {
      const record = chart.records[each.record];
      return {
        each, record, x: each.x[name], y: each.accuracy, low: each.low, high: each.high, colour: record.colour,
        shape: numbers.shapes[record.shape], kind: each.fixed ? "point end" : "point", size: each.fixed ? 0.7 * SIZE : SIZE,
        early: each.fixed || name !== "latency" ? null : each.early, late: each.late,
      };
    });
    if (name === "latency") {
      for (const number of records) {
        const record = chart.records[number];
        const { oracle: [x, y], colour, label, peek } = record;
        found.push({ record, x, y, colour, shape: numbers.star, kind: "oracle", size: SIZE, lines: ["consistency oracle", label, peek] });
      }
    }
    return { shown, records: [...records].sort((one, other) => one - other), found };
  }

  function draw(board) {
    const { chart, section } = board;
    const canvas = section.querySelector(".canvas");
    const width = Math.max(canvas.clientWidth, 240);
    const height = Math.round(Math.min(Math.max(0.625 * width, 300), 460));
    const name = axis(board);
    const logarithmic = option(board, "log").checked;
    option(board, "published").disabled = name !== "latency" || !chart.published.length;
    const { shown, records, found } = marks(board, name);
    hideTip(board);
    section.querySelector(".others").hidden = !option(board, "published").checked || name !== "latency";
    board.marks = [];
    if (!shown.length) {
      canvas.replaceChildren();
      return;
    }

    const curves = records.map((number) => chart.records[number]).filter((record) => record.curve[name]);
    board.lines = new Map();
    board.near = null;
    const heights = found.flatMap((mark) => [mark.y, mark.low ?? mark.y, mark.high ?? mark.y]);
    heights.push(...records.map((number) => chart.records[number].ann));
    if (option(board, "whole").checked) for (const record of curves) heights.push(...record.curve.accuracy);
    let [low, high] = extremes(heights);
    const cut = low - Math.max(0.06 * (high - low), 0.002);
    const widths = found.flatMap((mark) => mark.early == null ? [mark.x] : [mark.x, mark.early, mark.late]);
    for (const record of curves) {
      record.curve.accuracy.forEach((value, index) => { if (value >= cut) widths.push(record.curve[name][index]); });
    }
    const ends = extremes(widths);
    if (option(board, "published").checked && name === "latency") {
      for (const [x, y, text, origin] of chart.published) {
        if (x > ends[1] * 1.08 || x < ends[0] / 1.08) continue;
        found.push({ x, y, shape: numbers.cross, kind: "other", size: SIZE, lines: [text, `${(100 * y).toFixed(2)}%, as published: ${origin}`] });
        [low, high] = extremes([low, high, y]);
      }
    }
    const x = xAxis(ends, name, logarithmic);
    const margin = Math.max(0.06 * (high - low), 0.002);
    const y = { low: low - margin, high: high + margin };
    const ticks = linearTicks(100 * y.low, 100 * y.high);
    const right = width - RIGHT, bottom = height - BOTTOM;
    const across = (value) => short(LEFT + x.place(value) * (right - LEFT));
    const up = (value) => short(bottom - ((value - y.low) / (y.high - y.low)) * (bottom - TOP));

    const svg = make("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "group" });
    svg.setAttribute("aria-label", `Chart: accuracy over ${AXES[name]}, ${found.length} marks. Arrow keys go from mark to mark.`);
    const clip = `${chart.slug}-clip`;
    svg.append(make("clipPath", { id: clip }, make("rect", { x: LEFT, y: TOP, width: right - LEFT, height: bottom - TOP })));
    const lines = x.ticks.map((tick) => `M${across(tick)} ${TOP}V${bottom}`).concat(ticks.map((tick) => `M${LEFT} ${up(tick / 100)}H${right}`));
    svg.append(make("path", { class: "grid", d: lines.join("") || "M0 0" }));
    const inside = make("g", { "clip-path": `url(#${clip})` });
    for (const value of new Set(records.map((number) => chart.records[number].ann))) {
      inside.append(make("path", { class: "level", d: `M${LEFT} ${up(value)}H${right}` }));
    }
    for (const record of curves) {
      const path = record.curve[name].map((value, index) => `${across(value)} ${up(record.curve.accuracy[index])}`).join("L");
      const line = make("path", { class: `line c${record.colour}`, d: `M${path}` });
      if (record.dash) line.setAttribute("stroke-dasharray", numbers.dashes[record.dash]);
      board.lines.set(record, line);
      inside.append(line);
    }
    // From left to right, which is the way of the arrow keys.
    found.sort((one, other) => one.x - other.x || one.y - other.y);
    board.marks = found;
    found.forEach((mark, index) => {
      mark.left = across(mark.x);
      mark.top = up(mark.y);
      mark.node = node(mark, across, up);
      mark.node.dataset.mark = index;
    });
    // The stars below the rules, the crosses on top.
    for (const kind of ["oracle", "point", "other"]) {
      inside.append(...found.filter((mark) => mark.kind.startsWith(kind)).map((mark) => mark.node));
    }
    svg.append(inside, make("path", { class: "frame", d: `M${LEFT} ${TOP}V${bottom}H${right}` }));
    labels(svg, x, ticks, name, across, up, width, height);
    found[0]?.node.setAttribute("tabindex", "0");
    canvas.replaceChildren(svg, board.tip ??= make("div", { class: "tip", hidden: "" }));
    choose(board, board.chosen);
  }

  function node(mark, across, up) {
    const place = `translate(${mark.left} ${mark.top}) scale(${mark.size})`;
    const group = make("g", { class: `${mark.kind.replace("oracle", "peek")}${mark.colour == null ? "" : ` c${mark.colour}`}`, tabindex: "-1" });
    if (mark.each) {
      let bars = `M${mark.left} ${up(mark.low)}V${up(mark.high)}`;
      if (mark.early != null) bars += `M${across(mark.early)} ${mark.top}H${across(mark.late)}`;
      group.append(make("path", { class: "bars", d: bars }));
    }
    group.setAttribute("role", mark.each ? "button" : "img");
    group.setAttribute("aria-label", description(mark).join(", "));
    const look = mark.each ? "mark" : mark.kind === "oracle" ? `oracle c${mark.colour}` : "other";
    group.append(make("path", { class: look, d: mark.shape, transform: place }));
    return group;
  }

  function labels(svg, x, ticks, name, across, up, width, height) {
    const bottom = height - BOTTOM;
    let last = -Infinity;
    for (const tick of x.ticks) {
      const text = tickText(tick, name), half = 3.8 * text.length;
      if (across(tick) - half < last + 8) continue;
      last = across(tick) + half;
      svg.append(make("text", { class: "below", x: across(tick), y: bottom + 17 }, text));
    }
    for (const tick of ticks) svg.append(make("text", { class: "left", x: LEFT - 7, y: up(tick / 100) + 4 }, String(tick)));
    svg.append(make("text", { class: "below axis", x: (LEFT + width - RIGHT) / 2, y: height - 6 }, AXES[name]));
    svg.append(make("text", { class: "below axis", transform: `translate(13 ${(TOP + bottom) / 2}) rotate(-90)` }, "accuracy (%)"));
  }

  // What a mark is, line by line; the words are those of its row.
  function description(mark) {
    if (mark.lines) return mark.lines;
    const cells = mark.each.row.cells;
    const cell = (key) => [...cells[COLUMNS.indexOf(key)].childNodes].map((part) => part.textContent.trim()).filter(Boolean).join(" ");
    const rule = [...cells[2].childNodes].map((part) => part.textContent);
    return [
      mark.record.label,
      rule.length > 1 ? `${rule[0]}: ${rule.slice(1).join("; ")}` : rule[0],
      `accuracy ${cell("accuracy")}%`.replace(" [", "% [").replace(/\]%$/, "]"),
      `latency ${cell("latency")}`,
      `SynOps ${cell("synops")}`,
    ];
  }

  function showTip(board, mark) {
    const { tip, marks: all } = board;
    const same = all.filter((other) => other !== mark && Math.hypot(other.left - mark.left, other.top - mark.top) < 1.5);
    const lines = description(mark).map((line, index) => make("span", {}, index ? line : make("b", {}, line)));
    if (board.touched && mark.each) lines.push(make("span", { class: "soft" }, "tap again for its row"));
    if (same.length) lines.push(make("span", { class: "soft" }, `and ${same.length} more at this place`));
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const canvas = tip.parentElement, room = canvas.clientWidth;
    const left = mark.left + 14 + tip.offsetWidth <= room ? mark.left + 14 : Math.max(0, mark.left - 14 - tip.offsetWidth);
    tip.style.left = `${left}px`;
    // Below the mark where there is no room above it, so that the mark stays in sight.
    const above = mark.top - 12 - tip.offsetHeight;
    tip.style.top = `${above >= -30 ? above : mark.top + 16}px`;
    near(board, mark);
  }

  function hideTip(board) {
    if (board.tip) board.tip.hidden = true;
    near(board, null);
  }

  function ring(board, kind, mark) {
    board.section.querySelector(`.${kind}`)?.remove();
    if (!mark) return;
    const made = make("path", { class: kind, d: "M-10 0a10 10 0 1 0 20 0a10 10 0 1 0-20 0z" });
    made.setAttribute("transform", `translate(${mark.left} ${mark.top})`);
    board.section.querySelector(".plot").append(made);
  }

  // The mark with its intervals and the line of its record stand out.
  function near(board, mark) {
    ring(board, "halo", mark);
    board.near?.node.classList.remove("near");
    board.lines?.get(board.near?.record)?.classList.remove("near");
    board.near = mark;
    mark?.node.classList.add("near");
    board.lines?.get(mark?.record)?.classList.add("near");
  }

  // One row of a table at a time is chosen; its point and its row are highlighted.
  function choose(board, each) {
    const before = board.chosen;
    if (before) {
      before.row.classList.remove("chosen");
      before.row.querySelector(".show").setAttribute("aria-pressed", "false");
    }
    board.chosen = each;
    ring(board, "ring", each && board.marks.find((mark) => mark.each === each));
    for (const mark of board.marks) mark.node.classList.toggle("chosen", Boolean(each) && mark.each === each);
    if (!each) return;
    each.row.classList.add("chosen");
    each.row.querySelector(".show").setAttribute("aria-pressed", "true");
  }

  const scroll = (node, block) => node.scrollIntoView({ block, behavior: calm.matches ? "auto" : "smooth" });

  function toRow(board, mark) {
    if (!mark?.each) return;
    const place = board.order.filter((each) => each.shown).indexOf(mark.each);
    if (place >= board.limit) {
      board.limit = place + 12;
      arrange(board);
    }
    choose(board, mark.each);
    mark.each.row.querySelector(".show").focus({ preventScroll: true });
    scroll(mark.each.row, "center");
    say(`Row of ${description(mark).slice(0, 2).join(", ")}.`);
  }

  function toPoint(board, each) {
    choose(board, each);
    const mark = board.marks.find((other) => other.each === each);
    if (!mark) return say("This row has no place in the chart.");
    rove(board, mark);
    scroll(board.section.querySelector("figure"), "nearest");
  }

  function rove(board, mark) {
    for (const other of board.marks) other.node.setAttribute("tabindex", other === mark ? "0" : "-1");
    mark.node.focus({ preventScroll: true });
    showTip(board, mark);
  }

  const marked = (board, target) => board.marks[target.closest?.("[data-mark]")?.dataset.mark];

  // The mark nearest to the pointer, for small marks are hard to hit.
  function nearest(board, event) {
    const box = board.section.querySelector(".canvas").getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const reach = event.pointerType === "touch" ? 28 : 18;
    let found = null, best = reach;
    for (const mark of board.marks) {
      const far = Math.hypot(mark.left - x, mark.top - y);
      if (far < best) [found, best] = [mark, far];
    }
    return found;
  }

  for (const board of boards) {
    const canvas = board.section.querySelector(".canvas");
    const choices = board.section.querySelector(".choices");
    for (const each of board.rows) {
      const swatch = each.row.querySelector(".swatch");
      const button = make("button", { type: "button", class: "show", "aria-label": "show in the chart", "aria-pressed": "false" });
      swatch.replaceWith(button);
      button.append(swatch);
    }
    for (const key of board.section.querySelectorAll(".legend [data-method]")) {
      const button = make("button", { type: "button", title: "this method alone" }, ...key.childNodes);
      key.append(button);
      button.addEventListener("click", () => {
        const select = form.elements.method;
        select.value = select.value === key.dataset.method ? "" : key.dataset.method;
        filtered();
        say(form.elements.count.value);
      });
    }
    choices.addEventListener("input", () => { draw(board); remember(); });
    canvas.addEventListener("pointermove", (event) => {
      const mark = nearest(board, event);
      if (mark) showTip(board, mark);
      else hideTip(board);
    });
    canvas.addEventListener("pointerdown", (event) => {
      board.touched = event.pointerType === "touch";
      board.before = board.near;
    });
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hideTip(board); });
    canvas.addEventListener("focusin", (event) => {
      const mark = marked(board, event.target);
      if (mark) showTip(board, mark);
    });
    canvas.addEventListener("focusout", () => hideTip(board));
    canvas.addEventListener("click", (event) => {
      // A screen reader clicks without coordinates.
      const mark = (event.detail && nearest(board, event)) || marked(board, event.target);
      // A finger cannot hover: its first tap says what the mark is.
      if (board.touched && mark && mark !== board.before) {
        choose(board, mark.each ?? null);
        showTip(board, mark);
      } else toRow(board, mark);
    });
    canvas.addEventListener("keydown", (event) => {
      const mark = marked(board, event.target);
      if (!mark) return;
      const place = board.marks.indexOf(mark), last = board.marks.length - 1;
      const steps = {
        ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: last,
      };
      if (event.key in steps) rove(board, board.marks[Math.min(Math.max(steps[event.key], 0), last)]);
      else if (event.key === "Enter" || event.key === " ") toRow(board, mark);
      else if (event.key === "Escape") hideTip(board);
      else return;
      event.preventDefault();
    });
    board.body.addEventListener("click", (event) => {
      const each = board.rows.find((other) => other.row === event.target.closest("tr"));
      if (!each || event.target.closest("a")) return;
      if (event.target.closest(".show")) toPoint(board, each);
      else if (getSelection().isCollapsed) choose(board, board.chosen === each ? null : each);
    });
    choices.hidden = false;
    // Only the width matters: the height follows it.
    let known = 0;
    new ResizeObserver(() => {
      if (known && known !== canvas.clientWidth) draw(board);
      known = canvas.clientWidth;
    }).observe(canvas);
  }

  form.hidden = false;
  document.documentElement.classList.add("scripted");
  const bar = () => document.documentElement.style.setProperty("--bar", `${form.offsetHeight}px`);
  new ResizeObserver(bar).observe(form);
  addEventListener("hashchange", () => { if (location.hash.includes("=") || !location.hash) recall(); });
  recall();
})();
