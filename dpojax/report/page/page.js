(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map(); // key of a chart -> Vega's view
  const hidden = new Map(); // group of charts -> names that they leave out

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const font = style.fontFamily;
    const text = { labelColor: of("--soft"), titleColor: of("--ink"), labelFont: font, titleFont: font };
    return {
      background: "transparent",
      font,
      view: { stroke: "transparent" },
      axis: { ...text, gridColor: of("--line"), domainColor: of("--soft"), tickColor: of("--soft"), titleFontWeight: 600, labelFontSize: 11, labelOverlap: true, labelSeparation: 6, labelFlush: false },
    };
  }

  // The page's own legends stand in the place of Vega's: they can be reached by keyboard, and wrap on a phone. On a dark page
  // colours are lighter.
  function adapted(part) {
    if (Array.isArray(part)) return part.map(adapted);
    if (part === null || typeof part !== "object") return part;
    const entries = Object.entries(part).map(([name, inner]) => {
      if (name === "data" || name === "datasets") return [name, inner];
      if (name === "range" && scheme.matches) return [name, inner.map((value) => data.dark[value] ?? value)];
      return [name, name === "legend" ? null : adapted(inner)];
    });
    return Object.fromEntries(entries);
  }

  async function draw(key) {
    const { spec, group } = data.charts[key];
    const place = document.getElementById(`chart-${key}`);
    const tooltip = { theme: scheme.matches ? "dark" : "light" };
    // Errors only: a chart all of whose runs are hidden has no extent, and that is no fault.
    const options = { mode: "vega-lite", ast: true, renderer: "svg", actions: false, config: theme(), tooltip, logLevel: 1 };
    const result = await window.vegaEmbed(place, adapted(spec), options);
    views.get(key)?.finalize();
    views.set(key, result.view);
    if (hidden.get(group)?.size) await result.view.signal("hidden", [...hidden.get(group)]).runAsync();
  }

  async function drawAll() {
    for (const key of Object.keys(data.charts)) await draw(key);
    document.documentElement.dataset.drawn = scheme.matches ? "dark" : "light";
  }

  function legends() {
    for (const legend of document.querySelectorAll(".legend")) {
      const { group } = legend.dataset;
      const buttons = [...legend.querySelectorAll("button.name")];
      const gone = new Set(); // names that the group's charts leave out
      hidden.set(group, gone);
      const wholes = [...legend.querySelectorAll("button.whole")].map((button) => {
        const members = [...button.parentElement.querySelectorAll("button.name")].map((member) => member.dataset.name);
        return { button, members };
      });
      const show = () => {
        for (const { button, members } of wholes) {
          button.setAttribute("aria-pressed", String(!members.every((name) => gone.has(name))));
        }
        for (const button of buttons) button.setAttribute("aria-pressed", String(!gone.has(button.dataset.name)));
        for (const [key, view] of views) {
          if (data.charts[key].group === group) view.signal("hidden", [...gone]).runAsync();
        }
      };
      const all = (hide) => {
        gone.clear();
        if (hide) for (const button of buttons) gone.add(button.dataset.name);
      };
      for (const button of buttons) {
        const { name } = button.dataset;
        button.addEventListener("click", () => {
          if (!gone.delete(name)) gone.add(name);
          show();
        });
        button.addEventListener("dblclick", () => {
          all(true);
          gone.delete(name);
          show();
        });
      }
      for (const { button, members } of wholes) {
        button.addEventListener("click", () => {
          const hide = members.some((name) => !gone.has(name));
          for (const name of members) hide ? gone.add(name) : gone.delete(name);
          show();
        });
        button.addEventListener("dblclick", () => {
          all(true);
          for (const name of members) gone.delete(name);
          show();
        });
      }
      for (const button of legend.querySelectorAll("button[data-all]")) {
        button.addEventListener("click", () => {
          all(button.dataset.all === "hide");
          show();
        });
      }
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
          // Of numbers the largest come first, of texts the first of the alphabet.
          const was = head.getAttribute("aria-sort");
          const falling = was === "none" ? head.classList.contains("number") : was === "ascending";
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

  // Marks the edges beyond which a legend or a table goes on, and says how many columns are out of sight.
  function hintAtMore() {
    for (const inner of document.querySelectorAll(".scroll, .legend")) {
      const box = inner.parentElement;
      const further = box.previousElementSibling?.querySelector(".further");
      const show = () => {
        box.toggleAttribute("data-left", inner.scrollLeft > 2);
        box.toggleAttribute("data-right", inner.scrollWidth - inner.clientWidth - inner.scrollLeft > 2);
        box.toggleAttribute("data-down", inner.scrollHeight - inner.clientHeight - inner.scrollTop > 2);
        if (!further) return;
        const edge = inner.getBoundingClientRect().right;
        const cells = [...inner.querySelectorAll("thead th")];
        const beyond = cells.filter((cell) => cell.getBoundingClientRect().right > edge + 2).length;
        further.textContent = beyond ? `${beyond} more column${beyond > 1 ? "s" : ""} →` : "";
      };
      inner.addEventListener("scroll", show, { passive: true });
      new ResizeObserver(show).observe(inner);
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

  legends();
  sortTables();
  filterTables();
  hintAtMore();
  showSamples();
  drawAll();
  scheme.addEventListener("change", drawAll);
})();
