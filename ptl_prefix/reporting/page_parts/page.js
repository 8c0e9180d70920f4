"use strict";
(async () => {
  const colours = ["#5b8fd6", "#e08a2c", "#4fa653", "#e0616a", "#2fa5ab", "#b07cc6", "#d9669f", "#a98068", "#b3a02c", "#8b93a0"];
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross"];
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 45rem)");
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];

  /* The compressed library is unpacked into a script element; the Content-Security-Policy allows it by its hash. */
  async function loadLibrary() {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
  }

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function coloured(trace) {
    const { row, is_band: isBand } = trace.meta;
    const ink = row ? colours[(row - 1) % colours.length] : css("--soft");
    const round = row ? Math.floor((row - 1) / colours.length) : 0;
    const line = { ...trace.line, color: ink };
    if (row && !isBand) line.dash = dashes[round % dashes.length];
    return {
      ...trace,
      line,
      marker: { ...trace.marker, color: ink, symbol: symbols[round % symbols.length] },
      textfont: { color: css("--ink"), size: 11 },
      ...(isBand && { fillcolor: ink + "33" }),
      ...(trace.error_y && { error_y: { ...trace.error_y, color: ink } }),
    };
  }

  function themed(layout) {
    const axis = (own) => ({ ...own, gridcolor: css("--line"), linecolor: css("--line"), tickcolor: css("--line") });
    const ink = css("--ink");
    return {
      ...layout,
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      shapes: (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: css("--soft") } })),
      annotations: (layout.annotations || []).map((note) => ({ ...note, font: { color: css("--soft"), size: 11 } })),
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif", size: narrow.matches ? 11 : 12 },
      hoverlabel: { bgcolor: css("--paper"), bordercolor: css("--line"), font: { color: ink } },
      margin: { l: 8, r: 12, t: 12, b: 8 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: ink },
      dragmode: narrow.matches ? false : "zoom",
    };
  }

  function draw(plot, index) {
    const section = plot.closest("section");
    const metric = section.querySelector("select.metric").value;
    const chosen = figures[index][metric] || figures[index][""];
    const hidden = new Set([...section.querySelectorAll('button[aria-pressed="false"]')].map((b) => Number(b.dataset.row)));
    const traces = chosen.data.map((trace) => ({ ...coloured(trace), visible: !hidden.has(trace.meta.row) }));
    const labels = Object.fromEntries([...section.querySelectorAll("button[data-row]")].map((b) => [b.dataset.row, b.textContent.trim().replace(/^\d+\s*/, "")]));
    for (const trace of traces) {
      if (trace.hovertemplate) trace.hovertemplate = `${shortened(labels[trace.meta.row])}<br>${trace.hovertemplate}<extra>${trace.meta.row}</extra>`;
    }
    return Plotly.react(plot, traces, themed(chosen.layout), {
      responsive: true,
      displaylogo: false,
      displayModeBar: narrow.matches ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    });
  }

  /* Plotly interprets some markup in labels, so the text of settings is escaped. */
  function shortened(text) {
    const cut = text.length > 60 ? text.slice(0, 57) + "…" : text;
    return cut.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("%{", "% {");
  }

  const drawAll = () => Promise.all(plots.map(draw));

  try {
    await loadLibrary();
    await drawAll();
  } catch (error) {
    document.querySelectorAll(".no-plots").forEach((note) => { note.hidden = false; });
    throw error;
  }
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  for (const select of document.querySelectorAll("select.metric")) select.addEventListener("change", drawAll);
  for (const button of document.querySelectorAll("button[data-row]")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") === "false"));
      drawAll();
    });
  }
  document.documentElement.dataset.drawn = String(plots.length);
})();
