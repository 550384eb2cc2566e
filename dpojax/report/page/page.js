(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map(); // key of a chart -> Vega's view
  const hidden = new Set(); // runs that the curves leave out

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const font = style.fontFamily;
    const text = { labelColor: of("--soft"), titleColor: of("--ink"), labelFont: font, titleFont: font };
    return {
      background: "transparent",
      font,
      view: { stroke: "transparent" },
      axis: { ...text, gridColor: of("--line"), domainColor: of("--soft"), tickColor: of("--soft"), titleFontWeight: 600, labelFontSize: 11 },
      legend: { ...text, labelColor: of("--ink"), labelFontSize: 12, symbolOpacity: 1 },
    };
  }

  async function draw(key) {
    const { spec, runs } = data.charts[key];
    const place = document.getElementById(`chart-${key}`);
    const config = theme();
    if (runs) config.legend = { ...config.legend, disable: true }; // the page's list of runs stands in its place
    const tooltip = { theme: scheme.matches ? "dark" : "light" };
    const options = { mode: "vega-lite", ast: true, renderer: "svg", actions: false, config, tooltip };
    const result = await window.vegaEmbed(place, spec, options);
    views.get(key)?.finalize();
    views.set(key, result.view);
    if (runs && hidden.size) await result.view.signal("hidden", [...hidden]).runAsync();
  }

  async function drawAll() {
    for (const key of Object.keys(data.charts)) await draw(key);
    document.documentElement.dataset.drawn = scheme.matches ? "dark" : "light";
  }

  function showRuns() {
    for (const button of document.querySelectorAll("button.run")) {
      button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.run)));
    }
    for (const [key, view] of views) {
      if (data.charts[key].runs) view.signal("hidden", [...hidden]).runAsync();
    }
  }

  function chooseRuns() {
    const buttons = [...document.querySelectorAll("button.run")];
    for (const button of buttons) {
      const run = button.dataset.run;
      button.addEventListener("click", () => {
        if (!hidden.delete(run)) hidden.add(run);
        showRuns();
      });
      button.addEventListener("dblclick", () => {
        for (const other of buttons) hidden.add(other.dataset.run);
        hidden.delete(run);
        showRuns();
      });
    }
    for (const button of document.querySelectorAll("button[data-all]")) {
      button.addEventListener("click", () => {
        hidden.clear();
        if (button.dataset.all === "hide") for (const other of buttons) hidden.add(other.dataset.run);
        showRuns();
      });
    }
  }

  const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  // Numbers before texts, "-" last whichever way the column is sorted.
  function compare(a, b, sign) {
    const empty = (cell) => cell.textContent === "-";
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const [x, y] = [a.dataset.value, b.dataset.value];
    if (x !== undefined && y !== undefined) return sign * (Number(x) - Number(y));
    if (x !== undefined || y !== undefined) return x !== undefined ? -1 : 1;
    return sign * order.compare(a.textContent, b.textContent);
  }

  function sortTables() {
    for (const table of document.querySelectorAll("table")) {
      const heads = [...table.tHead.rows[0].cells];
      heads.forEach((head, column) => {
        head.querySelector("button").addEventListener("click", () => {
          const falling = head.getAttribute("aria-sort") === "ascending";
          for (const other of heads) other.setAttribute("aria-sort", "none");
          head.setAttribute("aria-sort", falling ? "descending" : "ascending");
          const body = table.tBodies[0];
          const rows = [...body.rows];
          rows.sort((a, b) => compare(a.cells[column], b.cells[column], falling ? -1 : 1));
          body.append(...rows);
        });
      });
    }
  }

  function filterTables() {
    for (const box of document.querySelectorAll("input[type=search]")) {
      const rows = [...document.getElementById(box.dataset.table).tBodies[0].rows];
      const said = box.nextElementSibling;
      box.addEventListener("input", () => {
        const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        for (const row of rows) {
          const text = row.textContent.toLowerCase();
          row.hidden = !words.every((word) => text.includes(word));
          shown += !row.hidden;
        }
        said.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
      });
    }
  }

  function element(name, kind, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    made.textContent = text; // never as HTML: a model wrote it
    return made;
  }

  function showSamples() {
    const sets = document.getElementById("sample-set");
    if (!sets) return;
    const prompts = document.getElementById("sample-prompt");
    const show = () => {
      const set = data.samples[sets.value];
      const { prompt, answers } = set.prompts[prompts.value];
      document.getElementById("sample-text").textContent = prompt;
      const cards = answers.map(([policy, text, caption]) => {
        const card = element("article", "answer", "");
        const { name, label } = set.policies[policy];
        card.append(element("h4", "", label || name));
        card.append(element("div", "note", label && label !== name ? `${name}: ${caption}` : caption));
        card.append(element("p", "", text));
        return card;
      });
      document.getElementById("sample-answers").replaceChildren(...cards);
    };
    const choose = () => {
      const options = data.samples[sets.value].prompts.map(({ prompt }, i) => {
        const option = element("option", "", `${i + 1}. ${prompt.length > 90 ? `${prompt.slice(0, 90)}…` : prompt}`);
        option.value = String(i);
        return option;
      });
      prompts.replaceChildren(...options);
      show();
    };
    const move = (by) => {
      const count = prompts.options.length;
      prompts.value = String((Number(prompts.value) + by + count) % count);
      show();
    };
    sets.addEventListener("change", choose);
    prompts.addEventListener("change", show);
    document.getElementById("sample-back").addEventListener("click", () => move(-1));
    document.getElementById("sample-on").addEventListener("click", () => move(1));
    if (data.samples.length === 1) {
      sets.hidden = true;
      document.querySelector("label[for=sample-set]").hidden = true;
    }
    choose();
  }

  chooseRuns();
  sortTables();
  filterTables();
  showSamples();
  drawAll();
  scheme.addEventListener("change", drawAll);
})();
