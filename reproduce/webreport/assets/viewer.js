/* Attention viewers: a video's pictures under each model's attention, and its class probabilities below, frame by frame.
   Stands behind report.js in the same script. */
(() => {
  const { make, swatch, live } = report;
  const clips = JSON.parse(document.getElementById("clips").textContent);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const FPS = 30; // taken, and said, where a recording does not know the video's own rate
  const SPEEDS = [[0.1, "1/10"], [0.25, "1/4"], [0.5, "1/2"], [1, "1"], [2, "2"]];
  const TRUNCATE = 4; // standard deviations at which overlay.py's Gaussian ends
  const percent = (share) => `${(share / 10).toFixed(share < 100 ? 1 : 0)} %`;

  /* overlay.py's matrix of one axis, (pixels, cells): bilinear about the cells' centres, then a Gaussian, both mirrored. */
  function expansion(cells, pixels, sigma) {
    const bilinear = new Float64Array(pixels * cells);
    const period = Math.max(1, 2 * (cells - 1));
    const mirror = (cell) => Math.min(((cell % period) + period) % period, ((-cell % period) + period) % period);
    for (let p = 0; p < pixels; p++) {
      const position = ((p + 0.5) * cells) / pixels - 0.5;
      const below = Math.floor(position);
      bilinear[p * cells + mirror(below)] += 1 - (position - below);
      bilinear[p * cells + mirror(below + 1)] += position - below;
    }
    const radius = Math.floor(TRUNCATE * sigma + 0.5);
    const kernel = Float64Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-0.5 * ((i - radius) / sigma) ** 2));
    const total = kernel.reduce((sum, weight) => sum + weight, 0);
    const found = new Float64Array(pixels * cells);
    for (let p = 0; p < pixels; p++) {
      for (let k = -radius; k <= radius; k++) {
        const source = (((p + k) % (2 * pixels)) + 2 * pixels) % (2 * pixels);
        const at = Math.min(source, 2 * pixels - 1 - source) * cells;
        const weight = kernel[k + radius] / total;
        for (let c = 0; c < cells; c++) found[p * cells + c] += weight * bilinear[at + c];
      }
    }
    return found;
  }

  const axes = new Map();
  function axis(cells, pixels, sigma) {
    const key = `${cells} ${pixels}`;
    if (!axes.has(key)) axes.set(key, expansion(cells, pixels, sigma));
    return axes.get(key);
  }

  /* A map at a picture's size, of a maximum of 1. */
  function expand(map, [rows, columns], side, sigma) {
    const [down, across] = [axis(rows, side, sigma), axis(columns, side, sigma)];
    const half = new Float64Array(side * columns);
    for (let y = 0; y < side; y++) {
      for (let r = 0; r < rows; r++) {
        for (let c = 0; c < columns; c++) half[y * columns + c] += down[y * rows + r] * map[r * columns + c];
      }
    }
    const light = new Float64Array(side * side);
    let most = 0;
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        let sum = 0;
        for (let c = 0; c < columns; c++) sum += half[y * columns + c] * across[x * columns + c];
        light[y * side + x] = sum;
        if (sum > most) most = sum;
      }
    }
    for (let p = 0; p < light.length; p++) light[p] /= most;
    return light;
  }

  /* Bytes from base64; a cell's share of its map's maximum is the byte's square. */
  function maps(track) {
    if (!track.maps) {
      const bytes = atob(track.attention);
      track.maps = Float64Array.from(bytes, (letter) => (letter.charCodeAt(0) / 255) ** 2);
    }
    return track.maps;
  }

  function viewer(place, set) {
    const state = { video: null, at: 0, opacity: 0.6, playing: false, speed: still.matches ? 0.1 : 0.5, sheet: null };
    const shown = new Set(set.shown);
    const label = (id) => set.classes[id];
    let columns = [];
    let turn = 0; // of choosing a video; a slower picture of an earlier one is not shown

    const videos = make("select", { class: "video" }, ...set.videos.map((video, number) => {
      const true_ = video.true.map(label).join(", ") || "no class";
      return make("option", { value: number }, `${true_} – ${video.name}`);
    }));
    const boxes = set.models.map((model, number) => {
      const box = make("input", { type: "checkbox", value: number });
      box.checked = shown.has(number);
      box.addEventListener("change", () => {
        shown[box.checked ? "add" : "delete"](number);
        lay();
      });
      return make("label", {}, box, make("span", {}, model.name, model.setup ? make("small", {}, model.setup) : ""));
    });
    const play = make("button", { type: "button", class: "play" }, "Play");
    const scrub = make("input", { type: "range", class: "scrub", min: 0, max: 0, step: 1, value: 0, "aria-label": "Frame" });
    const where = make("output", { class: "where" });
    const speed = make("select", { class: "speed" }, ...SPEEDS.map(([value, name]) => make("option", { value }, `${name}×`)));
    speed.value = String(state.speed);
    const opacity = make("input", { type: "range", class: "opacity", min: 0, max: 100, step: 5, value: 100 * state.opacity });
    const share = make("output", {});
    const body = make("div", { class: "seen-by" });
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", `Attention viewer, ${set.title}`);
    place.append(
      make("div", { class: "choices" },
        make("label", { class: "field" }, make("span", {}, "Video"), videos),
        make("fieldset", { class: "models" }, make("legend", {}, "Models"), ...boxes)),
      make("div", { class: "transport" },
        play, scrub, where,
        make("label", {}, make("span", {}, "Speed"), speed),
        make("label", {}, make("span", {}, "Overlay"), opacity, share)),
      body,
      make("p", { class: "note keys" }, "Keys: space plays and pauses, the left and right arrows go from frame to frame, Home and End to the ends."));

    /* A column: a model's picture, its verdict, its curve and the numbers at the present frame. */
    function column(number) {
      const [model, track, video] = [set.models[number], state.video.tracks[number], state.video];
      const element = make("figure", { class: "sees" });
      const view = { number, track, element };
      const alone = set.models.filter((other) => other.name === model.name).length === 1;
      element.append(make("figcaption", {}, make("b", {}, model.name), alone ? "" : make("small", {}, model.setup)));
      if (track && track.grid) {
        view.canvas = make("canvas", { width: video.side, height: video.side, role: "img" });
        view.context = view.canvas.getContext("2d");
        element.append(view.canvas);
      } else {
        element.append(make("div", { class: "blind" }, track ? "no attention: it takes the whole frame at once" : "did not record this video"));
      }
      if (!track) return view;
      element.append(verdict(video, track));
      view.plot = make("div", { class: "plot" });
      view.values = video.drawn.map(() => make("td", { class: "n" }));
      view.now = make("td", { class: "n" });
      view.says = make("td", {});
      const lines = video.drawn.map((id, i) => {
        const name = make("span", {}, ...label(id).split(/(?<=_)|(?<=[a-z])(?=[A-Z])/).flatMap((part) => [part, make("wbr")]));
        const marked = video.true.includes(id) ? make("em", {}, " true") : "";
        return make("tr", { class: marked ? "true" : "" }, make("td", {}, swatch(video.styles[i])), make("th", { scope: "row" }, name, marked), view.values[i]);
      });
      const says = make("tr", { class: "says" }, make("td", {}, "now"), view.says, view.now);
      element.append(view.plot, make("table", { class: "values", "aria-label": `Probabilities, ${model.name}` }, make("tbody", {}, ...lines, says)));
      const seek = (event) => {
        if (event.type === "pointermove" && !event.buttons) return;
        const box = view.plot.getBoundingClientRect();
        const x = ((event.clientX - box.left - view.left) / (view.right - view.left)) * (video.frames.length - 1);
        pause();
        go(Math.round(x));
      };
      view.plot.addEventListener("pointerdown", seek);
      view.plot.addEventListener("pointermove", seek);
      return view;
    }

    function verdict(video, track) {
      const names = track.said.map(label).join(", ");
      const right = video.several ? String(track.said) === String(video.true) : video.true.includes(track.said[0]);
      const words = right ? `✓ recognised: ${names}` : track.said.length ? `✗ ${video.several ? "says" : "taken for"} ${names}` : "✗ no class reaches 50 %";
      return make("p", { class: `verdict ${right ? "up" : "down"}` }, words);
    }

    /* Curves of the drawn classes, the true ones thick. */
    function draw(view) {
      const width = view.plot && view.plot.clientWidth;
      if (!width) return;
      const [video, height, top, bottom] = [state.video, 118, 8, 20];
      const count = video.frames.length;
      [view.left, view.right] = [34, width - 8];
      view.x = (i) => (count < 2 ? (view.left + view.right) / 2 : view.left + (i * (view.right - view.left)) / (count - 1));
      view.y = (share) => top + ((1000 - share) * (height - top - bottom)) / 1000;
      const root = make("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
      for (const share of [0, 500, 1000]) {
        root.append(make("line", { class: "grid", x1: view.left, x2: view.right, y1: view.y(share), y2: view.y(share) }),
          make("text", { x: view.left - 5, y: view.y(share) + 4, "text-anchor": "end" }, share === 1000 ? "100%" : String(share / 10)));
      }
      root.append(make("text", { x: view.left, y: height - 4 }, `frame ${video.frames[0] + 1}`),
        count > 1 ? make("text", { x: view.right, y: height - 4, "text-anchor": "end" }, String(video.frames[count - 1] + 1)) : "");
      [...video.drawn.keys()].reverse().forEach((i) => {
        const points = view.track.p[i].map((share, at) => `${view.x(at).toFixed(1)} ${view.y(share).toFixed(1)}`);
        const true_ = video.true.includes(video.drawn[i]);
        root.append(make("g", { class: `s${video.styles[i]}${true_ ? " true" : ""}` }, make("path", { class: "line", d: `M${points.join("L")}` })));
      });
      view.cursor = make("line", { class: "cursor", y1: top, y2: height - bottom });
      view.marks = video.drawn.map((_, i) => make("use", { class: "mark", href: `#m${video.styles[i]}` }));
      root.append(view.cursor, ...view.marks.map((mark, i) => make("g", { class: `s${video.styles[i]}` }, mark)));
      view.plot.replaceChildren(root);
      point(view);
    }

    /* Cursor and numbers at the present frame. */
    function point(view) {
      if (!view.track) return;
      const { at, video } = state;
      view.values.forEach((cell, i) => (cell.textContent = percent(view.track.p[i][at])));
      view.says.textContent = label(view.track.top[at]);
      view.now.textContent = percent(view.track.topP[at]);
      if (!view.cursor) return;
      view.cursor.setAttribute("x1", view.x(at));
      view.cursor.setAttribute("x2", view.x(at));
      view.marks.forEach((mark, i) => {
        mark.setAttribute("x", view.x(at));
        mark.setAttribute("y", view.y(view.track.p[i][at]));
      });
      if (view.canvas) view.canvas.setAttribute("aria-label", `${set.models[view.number].name}, frame ${video.frames[at] + 1}: where it looks`);
    }

    /* The present picture's pixels, from the sheet of all of them. */
    function tile() {
      const { side, columns: across } = state.video;
      const row = Math.floor(state.at / across);
      return state.sheet.getImageData((state.at - row * across) * side, row * side, side, side);
    }

    /* The picture and, as opaque as asked, what overlay.py lays over it: share · map + (1 - share) · picture. */
    function paint(view, picture) {
      if (!view.canvas) return;
      const image = new ImageData(new Uint8ClampedArray(picture.data), picture.width);
      if (state.opacity) {
        const { grid } = view.track;
        const cells = grid[0] * grid[1];
        const map = maps(view.track).subarray(state.at * cells, (state.at + 1) * cells);
        const light = expand(map, grid, picture.width, set.blur * picture.width);
        const [bright, kept] = [state.opacity * set.share * 255, 1 - state.opacity * set.share];
        for (let p = 0; p < light.length; p++) {
          for (let channel = 4 * p; channel < 4 * p + 3; channel++) {
            image.data[channel] = Math.round(bright * light[p] + kept * picture.data[channel]);
          }
        }
      }
      view.context.putImageData(image, 0, 0);
    }

    function show() {
      const { video, at } = state;
      const last = video.frames[video.frames.length - 1] + 1;
      const words = `frame ${video.frames[at] + 1} of ${last < video.length ? `the first ${last} of ` : ""}${video.length}`;
      scrub.value = String(at);
      scrub.setAttribute("aria-valuetext", words);
      where.textContent = `${words}, ${(video.frames[at] / (video.rate || FPS)).toFixed(2)} s${video.rate ? "" : ` at ${FPS} fps`}`;
      const picture = tile();
      for (const view of columns) {
        point(view);
        paint(view, picture);
      }
    }

    function tell() {
      const said = columns.filter((view) => view.track)
        .map((view) => `${set.models[view.number].name} says ${label(view.track.top[state.at])} ${percent(view.track.topP[state.at])}`);
      live.textContent = `Frame ${state.video.frames[state.at] + 1}: ${said.join("; ")}`;
    }

    function go(at) {
      state.at = Math.max(0, Math.min(state.video.frames.length - 1, at));
      show();
      if (!state.playing) tell();
    }

    function lay() {
      columns = [...shown].sort((a, b) => a - b).map(column);
      body.replaceChildren(...(columns.length ? columns.map((view) => view.element) : [make("p", { class: "missing" }, "No model is chosen.")]));
      columns.forEach(draw);
      show();
    }

    async function choose(number) {
      const mine = ++turn;
      pause();
      delete place.dataset.ready;
      const picture = new Image();
      picture.src = set.videos[number].picture;
      await picture.decode();
      if (mine !== turn) return;
      const sheet = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
      state.sheet = sheet.getContext("2d", { willReadFrequently: true });
      state.sheet.drawImage(picture, 0, 0);
      [state.video, state.at] = [set.videos[number], 0];
      videos.value = String(number);
      scrub.max = String(state.video.frames.length - 1);
      lay();
      place.dataset.ready = String(number);
    }

    let [since, from] = [0, 0];
    function step(now) {
      if (!state.playing) return;
      const { frames, rate } = state.video;
      const start = frames[from];
      const passed = start + ((now - since) / 1000) * (rate || FPS) * state.speed;
      let at = state.at;
      while (at < frames.length - 1 && frames[at + 1] <= passed) at += 1;
      if (at !== state.at) go(at);
      if (passed > frames[frames.length - 1] + 1) {
        if (still.matches || frames.length < 2) return pause(); // once is enough
        [since, from] = [now, 0];
        go(0);
      }
      requestAnimationFrame(step);
    }

    function pause() {
      if (!state.playing) return;
      state.playing = false;
      play.textContent = "Play";
      tell();
    }

    function start() {
      if (state.at === state.video.frames.length - 1) go(0);
      state.playing = true;
      play.textContent = "Pause";
      [since, from] = [performance.now(), state.at];
      requestAnimationFrame(step);
    }

    const toggle = () => (state.playing ? pause() : start());
    play.addEventListener("click", toggle);
    videos.addEventListener("change", () => choose(Number(videos.value)));
    scrub.addEventListener("input", () => {
      pause();
      go(Number(scrub.value));
    });
    speed.addEventListener("change", () => {
      state.speed = Number(speed.value);
      [since, from] = [performance.now(), state.at];
    });
    const setOpacity = () => {
      state.opacity = Number(opacity.value) / 100;
      share.textContent = `${opacity.value} %`;
      if (state.video) show();
    };
    opacity.addEventListener("input", setOpacity);
    setOpacity();
    place.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || !state.video) return;
      const target = event.target;
      if (event.key === " " && !target.matches("select, button, [type=checkbox]")) toggle();
      else {
        const places = { ArrowLeft: state.at - 1, ArrowRight: state.at + 1, Home: 0, End: state.video.frames.length - 1 };
        if (!(event.key in places) || target.matches("select, .opacity")) return;
        pause();
        go(places[event.key]);
      }
      event.preventDefault();
    });
    new ResizeObserver(() => columns.forEach(draw)).observe(body);
    choose(0);
    return {
      open: (name) => {
        const number = set.videos.findIndex((video) => video.name === name);
        if (number >= 0) choose(number);
        scrub.focus({ preventScroll: true });
      },
    };
  }

  const views = new Map();
  for (const place of document.querySelectorAll("[data-clips]")) {
    views.set(place.closest("section").id, viewer(place, clips[place.dataset.clips]));
    const strips = place.parentElement.querySelector("details:has(.strips)");
    if (!strips) continue;
    strips.open = false; // they are for who has no script, and for paper
    addEventListener("beforeprint", () => (strips.open = true));
  }
  for (const link of document.querySelectorAll("[data-video]")) {
    link.addEventListener("click", () => views.get(link.getAttribute("href").slice(1)).open(link.dataset.video));
  }
})();
