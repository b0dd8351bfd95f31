// Sorting, filtering and hiding columns. Without this file the tables are complete and sorted by rank.
"use strict";

(() => {
  const tables = [...document.querySelectorAll("table[data-board]")];
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const verdict = document.getElementById("verdict");
  const toggles = [...document.querySelectorAll("input[data-group]")];
  const view = new URLSearchParams();

  const headers = (table) => [...table.tHead.querySelectorAll("tr.titles > th")];
  const rows = (body) => [...body.querySelectorAll("tr.row")];

  // A missing key comes last whichever way the column is sorted; equal keys keep the order they were published in.
  function compare(a, b, sign) {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    return sign * a.localeCompare(b);
  }

  function sort(table, index, direction) {
    const sign = direction === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const sorted = rows(body)
        .map((row) => ({ row, key: row.cells[index].dataset.sort, place: Number(row.dataset.place) }))
        .sort((a, b) => compare(a.key, b.key, sign) || a.place - b.place);
      body.append(...sorted.map((item) => item.row));
    }
    headers(table).forEach((header, place) => {
      if (place === index) header.setAttribute("aria-sort", direction);
      else header.removeAttribute("aria-sort");
    });
  }

  function remember() {
    try {
      history.replaceState(null, "", view.size === 0 ? "#" : `#${view}`);
    } catch {
      // A browser that forbids this for local files still sorts; only the address stays as it was.
    }
  }

  function set(name, value) {
    if (value) view.set(name, value);
    else view.delete(name);
  }

  function applyFilter() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let total = 0, visible = 0;
    for (const table of tables) {
      for (const body of table.tBodies) {
        let here = 0;
        for (const row of rows(body)) {
          const wanted = !verdict.value || row.dataset.verdict === verdict.value;
          row.hidden = !wanted || !words.every((word) => row.dataset.search.includes(word));
          total += 1;
          here += row.hidden ? 0 : 1;
        }
        body.querySelectorAll("tr.divider").forEach((row) => { row.hidden = here === 0; });
        visible += here;
      }
    }
    shown.textContent = words.length || verdict.value ? `${visible} of ${total} rows` : "";
  }

  function applyToggles() {
    for (const toggle of toggles) {
      document.body.classList.toggle(`hide-${toggle.dataset.group}`, !toggle.checked);
    }
  }

  function prepare(table) {
    for (const body of table.tBodies) rows(body).forEach((row, place) => { row.dataset.place = String(place); });
    const explain = table.closest("section").querySelector(".explain");
    explain.textContent = explain.dataset.default;
    explain.hidden = false;
    headers(table).forEach((header, index) => {
      const label = header.querySelector(".label");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "label";
      button.append(...label.childNodes);
      label.replaceWith(button);
      button.addEventListener("click", () => {
        const now = header.getAttribute("aria-sort");
        const opposite = now === "ascending" ? "descending" : "ascending";
        const direction = now ? opposite : header.dataset.first;
        sort(table, index, direction);
        set("board", table.dataset.board);
        set("sort", header.dataset.key);
        set("dir", direction);
        remember();
      });
      const tell = () => { explain.textContent = header.dataset.explain; };
      const rest = () => { explain.textContent = explain.dataset.default; };
      header.addEventListener("mouseenter", tell);
      header.addEventListener("mouseleave", rest);
      button.addEventListener("focus", tell);
      button.addEventListener("blur", rest);
    });
  }

  // The address may hold a view: #board=...&sort=...&dir=...&filter=...&verdict=suspect&hide=cost,cascade
  function restore() {
    const text = location.hash.slice(1);
    if (!text.includes("=")) return;
    const wanted = new URLSearchParams(text);
    for (const [name, value] of wanted) set(name, value);
    filter.value = wanted.get("filter") ?? "";
    verdict.value = wanted.get("verdict") ?? "";
    if (verdict.selectedIndex < 0) verdict.value = "";
    const hidden = (wanted.get("hide") ?? "").split(",");
    for (const toggle of toggles) toggle.checked = !hidden.includes(toggle.dataset.group);
    const table = tables.find((item) => item.dataset.board === wanted.get("board"));
    if (!table) return;
    const index = headers(table).findIndex((header) => header.dataset.key === wanted.get("sort"));
    const direction = wanted.get("dir") === "ascending" ? "ascending" : "descending";
    if (index >= 0) sort(table, index, direction);
    table.closest("section").scrollIntoView();
  }

  tables.forEach(prepare);
  document.getElementById("tools").hidden = false;
  restore();
  applyFilter();
  applyToggles();
  filter.addEventListener("input", () => { applyFilter(); set("filter", filter.value); remember(); });
  verdict.addEventListener("change", () => { applyFilter(); set("verdict", verdict.value); remember(); });
  for (const toggle of toggles) {
    toggle.addEventListener("change", () => {
      applyToggles();
      set("hide", toggles.filter((item) => !item.checked).map((item) => item.dataset.group).join(","));
      remember();
    });
  }
})();
