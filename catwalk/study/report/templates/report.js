"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const filters = document.getElementById("filters");
  const order = document.getElementById("order");
  const shown = document.getElementById("shown");
  const plots = JSON.parse(document.getElementById("plots-data").textContent);

  // Sorting: numbers by value, text by its letters, what is empty always last; equal rows stay as they are.
  const compare = (one, other) => {
    const [x, y] = [Number(one), Number(other)];
    return one.trim() !== "" && other.trim() !== "" && !Number.isNaN(x) && !Number.isNaN(y)
      ? x - y
      : one.localeCompare(other, "en", { numeric: true });
  };
  const sort = (heading) => {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    const place = heading.cellIndex;
    const body = heading.closest("table").tBodies[0];
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [row.cells[place].dataset.order, row]);
    rows.sort(([one], [other]) => {
      if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
      return ascending ? compare(one, other) : compare(other, one);
    });
    body.append(...rows.map(([, row]) => row));
  };
  for (const button of all("button.sort")) button.addEventListener("click", () => sort(button.closest("th")));

  // Filters: what is about something else than what was chosen is hidden; what is about all stays.
  const chosen = () => ({
    ...Object.fromEntries(new FormData(filters)),
    ...(order ? Object.fromEntries(new FormData(order)) : {}),
  });
  const fits = (data, choice) =>
    Object.entries(choice).every(([name, value]) => name === "by" || !value || !data[name] || data[name] === value);
  const gain = (card) => {
    const ranks = all(".ranks div:not([hidden])", card).map((rank) => Number(rank.dataset.gain));
    return ranks.length ? ranks.reduce((sum, each) => sum + each, 0) / ranks.length : NaN;
  };
  const value = {
    gain: (card) => -gain(card),
    loss: gain,
    far: (card) => -(card.dataset.lpips ?? NaN),
    near: (card) => Number(card.dataset.lpips ?? NaN),
  };
  const cards = new Map(all(".cards").map((group) => [group, [...group.children]]));
  const arrange = (by) => {
    for (const [group, originally] of cards) {
      const ordered = [...originally];
      if (by) {
        const of = new Map(ordered.map((card) => [card, value[by](card)]));
        ordered.sort((one, other) => {
          const [x, y] = [of.get(one), of.get(other)];
          return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : x - y;
        });
      }
      group.append(...ordered);
    }
  };
  const filter = () => {
    const choice = chosen();
    for (const element of all("[data-filtered]")) element.hidden = !fits(element.dataset, choice);
    for (const rank of all(".ranks div")) rank.hidden = Boolean(choice.recommender) && rank.dataset.recommender !== choice.recommender;
    for (const group of all("[data-group]")) group.hidden = !group.querySelector("[data-filtered]:not([hidden])");
    for (const note of all("section > .none")) note.hidden = Boolean(note.parentElement.querySelector("[data-group]:not([hidden])"));
    arrange(choice.by);
    const count = (selector) => `${all(`${selector}:not([hidden])`).length} of ${all(selector).length}`;
    shown.textContent = `${count("#verdicts > .verdicts > li")} verdicts, ${count(".card")} items`;
    draw();
  };
  for (const form of [filters, order]) {
    form?.addEventListener("input", filter);
    form?.addEventListener("submit", (event) => event.preventDefault());
  }
  filters.addEventListener("reset", () => setTimeout(filter));

  // Plots under the mouse. Text is given to Plotly as text: it takes some tags for its own.
  const text = (content) => String(content).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const cut = (content, letters) => (content.length > letters ? `${content.slice(0, Math.max(letters - 1, 8))}…` : content);
  const fills = ["", "-open", "-dot", "-open-dot"];
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const number = (x) => (x === 0 ? "0" : Math.abs(x) < 0.001 ? x.toExponential(2) : String(Number(x.toPrecision(4))));
  const distinct = (values) => [...new Set(values)];
  const drawOne = (place) => {
    const plot = plots[place.dataset.plot];
    const choice = chosen();
    const points = plot.points.filter((point) => fits(point, choice));
    place.closest("figure").hidden = !points.length;
    if (!points.length) return;
    const panels = distinct(points.map((point) => point.panel));
    const series = distinct(plot.points.map((point) => point.series));
    const kinds = distinct(plot.points.map((point) => point.kind));
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const bright = (hue) => {
      if (!matchMedia("(prefers-color-scheme: dark)").matches) return hue;
      const levels = [1, 3, 5].map((at) => parseInt(hue.slice(at, at + 2), 16));
      const share = Math.max(...levels) < 100 ? 0.8 : 0.4;
      return `rgb(${levels.map((level) => Math.round(level + share * (255 - level))).join(",")})`;
    };
    const width = place.clientWidth;
    const abreast = width < 700 ? 1 : Math.min(panels.length, 3) || 1;
    const lines = Math.ceil(panels.length / abreast) || 1;
    const legend = width >= 700;
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--dim"), linecolor: colour("--line"), automargin: true };
    const height = 330 * lines + 40;
    const layout = {
      height, width, hovermode: "closest", dragmode: "pan", showlegend: legend,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: 12, family: "system-ui, 'DejaVu Sans', sans-serif" },
      margin: { l: 60, r: 10, t: 30, b: 50 }, annotations: [],
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink") }, align: "left" },
    };
    const traces = [];
    panels.forEach((panel, number_) => {
      const suffix = number_ ? String(number_ + 1) : "";
      const [column, line] = [number_ % abreast, Math.floor(number_ / abreast)];
      const [gapX, gapY] = [abreast > 1 ? 0.06 : 0, 90 / height];
      const [wide, high] = [(1 - gapX * (abreast - 1)) / abreast, (1 - gapY * (lines - 1)) / lines];
      const x = [column * (wide + gapX), column * (wide + gapX) + wide];
      const y = [1 - line * (high + gapY) - high, 1 - line * (high + gapY)];
      layout[`xaxis${suffix}`] = { ...axis, domain: x, anchor: `y${suffix}`, type: plot.logarithmic ? "log" : "linear", title: { text: column ? "" : text(plot.x), standoff: 8 } };
      if (plot.logarithmic) Object.assign(layout[`xaxis${suffix}`], { dtick: 1, exponentformat: "power" });
      layout[`yaxis${suffix}`] = { ...axis, domain: y, anchor: `x${suffix}`, title: { text: column ? "" : text(plot.y) } };
      if (plot.shares?.includes("x")) Object.assign(layout[`xaxis${suffix}`], { tickformat: ".0%", range: [-0.03, 1.03], zeroline: false });
      if (plot.shares?.includes("y")) Object.assign(layout[`yaxis${suffix}`], { tickformat: ".0%", range: [-0.03, 1.03], zeroline: false });
      if (number_) layout[`xaxis${suffix}`].matches = plot.logarithmic ? undefined : "x";
      if (number_) layout[`yaxis${suffix}`].matches = "y";
      if (panel) layout.annotations.push({ text: `<b>${text(cut(panel, (wide * width) / 7.5))}</b>`, hovertext: text(panel), showarrow: false, xref: "paper", yref: "paper", x: x[0], y: y[1], xanchor: "left", yanchor: "bottom" });
      for (const name of series) for (const kind of kinds) {
        const its = points.filter((point) => point.panel === panel && point.series === name && point.kind === kind);
        if (!its.length) continue;
        its.sort((one, other) => (plot.lines ? one.x - other.x : 0));
        const hue = bright(plot.colours[series.indexOf(name) % plot.colours.length]);
        const symbol = plot.symbols[kinds.indexOf(kind) % plot.symbols.length] + fills[plot.lines ? 0 : series.indexOf(name) % fills.length];
        traces.push({
          type: "scatter", mode: plot.lines ? "lines+markers" : "markers",
          name: text([name, kind].filter(Boolean).join(" · ")), legendgroup: `${name}\n${kind}`,
          showlegend: number_ === panels.findIndex((each) => points.some((point) => point.panel === each && point.series === name && point.kind === kind)),
          x: its.map((point) => point.x), y: its.map((point) => point.y),
          xaxis: `x${suffix}`, yaxis: `y${suffix}`,
          marker: { color: hue, symbol, size: 10, line: { width: 1.5, color: hue } },
          line: { color: hue, width: 1.5, dash: dashes[kinds.indexOf(kind) % dashes.length] },
          error_y: its.some((point) => point.low !== null) ? {
            type: "data", symmetric: false, thickness: 1.2, width: 3, color: hue,
            array: its.map((point) => (point.high ?? point.y) - point.y),
            arrayminus: its.map((point) => point.y - (point.low ?? point.y)),
          } : undefined,
          text: its.map((point) => [
            `<b>${text([point.series, point.kind].filter(Boolean).join(" · "))}</b>`,
            ...(point.panel ? [text(point.panel)] : []),
            `${text(plot.x)}: ${number(point.x)}`,
            `${text(plot.y)}: ${number(point.y)}${point.low === null ? "" : ` (${number(point.low)} to ${number(point.high)})`}`,
            ...(point.note ? [text(point.note)] : []),
          ].join("<br>")),
          hoverinfo: "text",
        });
      }
    });
    if (legend) Object.assign(layout, { legend: { orientation: "h", y: -62 / (height - 80), yanchor: "top" } });
    Plotly.react(place, traces, layout, { displaylogo: false, scrollZoom: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
    place.classList.add("drawn");
  };
  const draw = () => {
    if (typeof Plotly !== "undefined") for (const place of all(".hover")) drawOne(place);
  };
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(draw, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  for (const image of all(".triple img")) {
    const sharpen = () => image.classList.toggle("small", image.naturalWidth <= 96);
    if (image.complete) sharpen();
    image.addEventListener("load", sharpen);
  }
  // What is addressed is opened.
  const open = () => {
    const target = location.hash ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    const part = target?.closest("details");
    if (part) part.open = true;
  };
  addEventListener("hashchange", open);
  open();
  filter();
})();
