"use strict";
/* Draws the report's charts from the JSON beside it. No library; text enters the page as text only. */
const report = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const live = document.getElementById("live");

  /* An element of HTML or SVG, with attributes and children; strings become text. */
  function make(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "rect", "text", "use", "title"].includes(name);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function swatch(style) {
    return make("svg", { class: `swatch s${style}`, width: 30, height: 14, viewBox: "0 0 30 14", "aria-hidden": "true" },
      make("path", { class: "line", d: "M1 7H29" }), make("use", { class: "mark", href: `#m${style}`, x: 15, y: 7 }));
  }

  /* The tip beside a point of the window, or where it is too wide above or below what it speaks of: a heading, and lines
     of (style or null, name, value). */
  function showTip(x, y, around, heading, lines) {
    tip.replaceChildren(make("div", { class: "head" }, heading),
      ...lines.map(([style, name, value]) =>
        make("div", {}, style === null ? null : swatch(style), make("span", {}, name), make("b", {}, value))));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const onTheRight = x + 16 + width <= innerWidth - 8;
    let [left, top] = [onTheRight ? x + 16 : x - 16 - width, y - height / 2];
    if (left < 8) [left, top] = [x - width / 2, around.top - height - 6 >= 8 ? around.top - height - 6 : around.bottom + 6];
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(top, innerHeight - height - 8))}px`;
  }

  /* Called when the page scrolls: puts the tip of what the keys have chosen back in its place; else the tip goes. */
  let follow = null;

  function read(heading, lines) {
    live.textContent = `${heading}: ${lines.map(([, name, value]) => `${name} ${value}`).join(", ")}`;
  }

  /* Round numbers that span an interval. */
  function ticks(low, high, count) {
    const raw = (high - low || 1) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
    const first = Math.floor(low / step + 1e-9);
    const last = Math.ceil(high / step - 1e-9);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return Array.from({ length: last - first + 1 }, (_, i) => ({ at: (first + i) * step, text: ((first + i) * step).toFixed(digits) }));
  }

  const digits = (value, unit) => (unit === "%" ? value.toFixed(1) : value.toPrecision(4));

  /* Lines over an axis of named places. Returns how to draw, and what the keys and the pointer do. */
  function lines(plot, chart) {
    const hidden = new Set();
    let at = null;
    let places = [];

    function draw() {
      const width = plot.clientWidth;
      if (!width) return;
      const height = Math.round(Math.max(190, Math.min(300, width * 0.66)));
      const shown = chart.series.filter((line) => !hidden.has(line.name));
      const values = shown.flatMap((line) => [...line.y, ...(line.lo || []), ...(line.hi || [])]).filter((v) => v !== null);
      const scale = ticks(Math.min(...values, Infinity) === Infinity ? 0 : Math.min(...values), values.length ? Math.max(...values) : 1, 4);
      const [low, high] = [scale[0].at, scale[scale.length - 1].at === scale[0].at ? scale[0].at + 1 : scale[scale.length - 1].at];
      const left = 12 + 7 * Math.max(...scale.map((tick) => tick.text.length));
      const [right, top, bottom] = [12, 20, 40];
      const inset = chart.whiskers ? Math.min(34, width / 10) : 6;
      const count = chart.x.length;
      const x = (i) => (count < 2 ? (left + width - right) / 2 : left + inset + (i * (width - left - right - 2 * inset)) / (count - 1));
      const y = (v) => top + ((high - v) * (height - top - bottom)) / (high - low);
      const root = make("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
      for (const tick of scale) {
        root.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(tick.at), y2: y(tick.at) }),
          make("text", { x: left - 7, y: y(tick.at) + 4, "text-anchor": "end" }, tick.text));
      }
      root.append(make("text", { x: left - 7, y: 9, "text-anchor": "end" }, chart.unit));
      const longest = Math.max(...chart.x.map((text) => text.length));
      const every = Math.ceil(count / Math.max(2, Math.floor((width - left) / (longest * 8 + 14))));
      chart.x.forEach((text, i) => {
        const near = i !== count - 1 && count - 1 - i < every && (count - 1) % every;
        if ((i % every === 0 && !near) || i === count - 1) root.append(make("text", { x: x(i), y: height - bottom + 17, "text-anchor": "middle" }, text));
      });
      root.append(make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, chart.label));
      if (at !== null) root.append(make("line", { class: "cross", x1: x(at), x2: x(at), y1: top, y2: height - bottom }));
      shown.forEach((line, number) => {
        const points = line.y.map((v, i) => [i, v]).filter(([, v]) => v !== null);
        const group = make("g", { class: `s${line.style}` });
        const aside = chart.whiskers ? (number - (shown.length - 1) / 2) * Math.min(9, 26 / shown.length) : 0;
        if (line.lo && chart.whiskers) {
          for (const [i] of points) {
            const px = x(i) + aside;
            group.append(make("path", { class: "whisker", d: `M${px} ${y(line.lo[i])}V${y(line.hi[i])}M${px - 4} ${y(line.lo[i])}h8M${px - 4} ${y(line.hi[i])}h8` }));
          }
        } else if (line.lo) {
          const over = points.map(([i]) => `${x(i)} ${y(line.hi[i])}`);
          const under = points.map(([i]) => `${x(i)} ${y(line.lo[i])}`).reverse();
          group.append(make("path", { class: "band", d: `M${[...over, ...under].join("L")}Z` }));
        }
        group.append(make("path", { class: "line", d: `M${points.map(([i, v]) => `${x(i) + aside} ${y(v)}`).join("L")}` }));
        const spacing = Math.ceil(points.length / Math.max(2, width / 26));
        points.forEach(([i, v], n) => {
          if (n % spacing === 0 || n === points.length - 1 || i === at) group.append(make("use", { class: "mark", href: `#m${line.style}`, x: x(i) + aside, y: y(v) }));
        });
        root.append(group);
      });
      places = chart.x.map((_, i) => x(i));
      plot.replaceChildren(root);
    }

    function tell() {
      const rows = chart.series.filter((line) => !hidden.has(line.name) && line.y[at] !== null && line.y[at] !== undefined)
        .sort((a, b) => b.y[at] - a.y[at])
        .map((line) => {
          const spread = line.lo && line.lo[at] !== line.hi[at] ? ` [${digits(line.lo[at], chart.unit)}, ${digits(line.hi[at], chart.unit)}]` : "";
          return [line.style, line.name, `${digits(line.y[at], chart.unit)}${chart.unit === "%" ? " %" : ""}${spread}`];
        });
      return [`${chart.label} ${chart.x[at]}`, rows];
    }

    function place(index) {
      if (index !== at) {
        at = index;
        draw();
      }
      const box = plot.getBoundingClientRect();
      const said = tell();
      showTip(box.left + places[at], box.top + box.height / 2, box, ...said);
      return said;
    }

    return {
      draw,
      hidden,
      point: (event) => {
        const px = event.clientX - plot.getBoundingClientRect().left;
        place(places.reduce((best, p, i) => (Math.abs(p - px) < Math.abs(places[best] - px) ? i : best), 0));
      },
      key: (key) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
        const ends = { Home: 0, End: chart.x.length - 1 };
        if (step === undefined && !(key in ends)) return false;
        read(...place(key in ends ? ends[key] : Math.max(0, Math.min(chart.x.length - 1, at === null ? 0 : at + step))));
        follow = () => place(at);
        return true;
      },
      leave: () => {
        at = null;
        draw();
      },
    };
  }

  /* A confusion matrix; its cells are read with pointer or arrow keys. */
  function matrix(plot, chart) {
    const count = chart.classes.length;
    const totals = Array(count).fill(0);
    const counts = new Map();
    for (const [i, j, n] of chart.cells) {
      totals[i] += n;
      counts.set(i * count + j, n);
    }
    const many = count > 20;
    if (many) plot.closest(".matrix").classList.add("large");
    let [at, size, left, top] = [null, 0, 0, 0];

    function draw() {
      const room = plot.clientWidth;
      if (!room) return;
      const narrow = room < 420;
      const font = many || narrow ? 10 : 12;
      const smallest = many ? 11 : narrow ? 14 : 17;
      const longest = Math.min(narrow ? 12 : many ? 16 : 18, Math.max(...chart.classes.map((name) => name.length)));
      const clip = (name) => (name.length > longest ? `${name.slice(0, longest - 1)}…` : name);
      left = 12 + longest * font * 0.58;
      top = 12 + longest * font * 0.47;
      const tail = Math.max(0, longest * font * 0.38 - smallest);
      size = Math.max(smallest, Math.min(Math.max(48, Math.min(84, 420 / count)), (room - left - 14 - tail) / count));
      const [width, height] = [left + size * count + tail + 14, top + size * count + 4];
      const root = make("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
      root.style.width = `${width}px`;
      const gap = size > 16 ? 1.5 : 0.75;
      root.append(make("rect", { class: "cell-empty", x: left, y: top, width: size * count, height: size * count, rx: 4 }));
      for (const [i, j, n] of chart.cells) {
        const share = n / totals[i];
        root.append(make("rect", {
          class: i === j ? "cell-hit" : "cell-miss", x: left + j * size + gap, y: top + i * size + gap,
          width: size - 2 * gap, height: size - 2 * gap, rx: Math.min(3, size / 6), opacity: (0.1 + 0.9 * share).toFixed(3),
        }));
      }
      chart.classes.forEach((name, i) => {
        const middle = (i + 0.5) * size;
        const row = make("text", { x: left - 6, y: top + middle + font * 0.35, "text-anchor": "end" }, clip(name));
        const column = make("text", { transform: `translate(${left + middle + font * 0.3} ${top - 6}) rotate(-50)` }, clip(name));
        for (const text of [row, column]) text.style.fontSize = `${font}px`;
        root.append(row, column);
      });
      if (at) root.append(make("rect", { class: "cell-at", x: left + at[1] * size, y: top + at[0] * size, width: size, height: size, rx: 3 }));
      plot.replaceChildren(root);
    }

    function place(i, j) {
      at = [i, j];
      draw();
      const [n, box] = [counts.get(i * count + j) || 0, plot.getBoundingClientRect()];
      const share = totals[i] ? `${((100 * n) / totals[i]).toFixed(0)} %` : "–";
      const said = [`${n} of ${totals[i]} videos, ${share}`, [[null, "true", chart.classes[i]], [null, "predicted", chart.classes[j]]]];
      showTip(box.left - plot.scrollLeft + left + (j + 0.5) * size, box.top + top + (i + 0.5) * size, box, ...said);
      return said;
    }

    return {
      draw,
      point: (event) => {
        const box = plot.getBoundingClientRect();
        const j = Math.floor((event.clientX - box.left + plot.scrollLeft - left) / size);
        const i = Math.floor((event.clientY - box.top - top) / size);
        if (i < 0 || j < 0 || i >= count || j >= count) return false;
        place(i, j);
        return true;
      },
      key: (key) => {
        const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[key];
        if (!step) return false;
        const [i, j] = at ? [at[0] + step[0], at[1] + step[1]] : [0, 0];
        read(...place(Math.max(0, Math.min(count - 1, i)), Math.max(0, Math.min(count - 1, j))));
        follow = () => place(...at);
        return true;
      },
      leave: () => {
        at = null;
        draw();
      },
    };
  }

  const kinds = { lines, matrix };
  const drawn = new Map();
  const observer = new ResizeObserver((entries) => entries.forEach((entry) => drawn.get(entry.target).draw()));
  for (const plot of document.querySelectorAll("[data-chart]")) {
    const chart = data[plot.dataset.chart];
    const view = kinds[chart.kind](plot, chart);
    const leave = () => {
      tip.hidden = true;
      follow = null;
      view.leave();
    };
    drawn.set(plot, view);
    const point = (event) => {
      follow = null;
      if (view.point(event) === false) leave();
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      else if (view.key(event.key)) event.preventDefault();
    });
    observer.observe(plot);
  }
  document.addEventListener("pointerdown", (event) => {
    if (!event.composedPath().some((node) => drawn.has(node))) tip.hidden = true; // the target may be redrawn already
  });
  addEventListener("scroll", () => (follow ? follow() : (tip.hidden = true)), { passive: true });

  /* One legend for the charts of a group; for each chart its own where the group says so. */
  function legend(views) {
    const series = new Map(views.flatMap(([, chart]) => chart.series.map((line) => [line.name, line])));
    if (series.size < 2) return "";
    return make("div", { class: "legend" }, ...[...series.values()].map((line) => {
      const button = make("button", { type: "button", "aria-pressed": "true" }, swatch(line.style), make("span", {}, line.name));
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!on));
        for (const [view] of views) {
          view.hidden[on ? "add" : "delete"](line.name);
          view.draw();
        }
      });
      return button;
    }));
  }
  for (const group of document.querySelectorAll(".charts")) {
    const views = [...group.querySelectorAll("[data-chart]")].map((plot) => [drawn.get(plot), data[plot.dataset.chart], plot]);
    if (!group.classList.contains("own")) group.prepend(legend(views));
    else for (const view of views) view[2].after(legend([view]));
  }

  for (const list of document.querySelectorAll("[role=tablist]")) {
    const buttons = [...list.children];
    const choose = (chosen) => buttons.forEach((button) => {
      const on = button === chosen;
      button.setAttribute("aria-selected", String(on));
      button.tabIndex = on ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).hidden = !on;
    });
    buttons.forEach((button, number) => {
      button.addEventListener("click", () => choose(button));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = buttons[(number + step + buttons.length) % buttons.length];
        event.preventDefault();
        choose(next);
        next.focus();
      });
    });
  }

  /* The contents show where the reader is. */
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]));
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].filter((id) => seen.has(id)).pop();
    const deepest = [...links.keys()].find((id) => seen.has(id) && !document.getElementById(id).querySelector("section")) || current;
    for (const [id, link] of links) link.toggleAttribute("aria-current", id === deepest);
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const id of links.keys()) watcher.observe(document.getElementById(id));
  return { make, swatch, live };
})();
