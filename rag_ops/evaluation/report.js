"use strict";
(() => {
  const PAGE = 25;
  const element = (id) => document.getElementById(id);
  const rows = Array.from(document.querySelectorAll("details.row"));
  const texts = rows.map((row) => row.dataset.find.toLowerCase());
  let page = 0;
  function show() {
    const words = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = element("outcome").value;
    const held = element("held").value;
    const found = rows.filter((row, place) =>
      (!outcome || row.dataset.outcome === outcome) && (!held || row.dataset.held === held) &&
      words.every((word) => texts[place].includes(word)));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const here = new Set(found.slice(page * PAGE, (page + 1) * PAGE));
    for (const row of rows) row.hidden = !here.has(row);
    element("where").textContent = `${found.length} found, page ${page + 1} of ${pages}`;
    element("back").disabled = page === 0;
    element("next").disabled = page === pages - 1;
  }
  for (const id of ["search", "outcome", "held"]) element(id).addEventListener("input", () => { page = 0; show(); });
  element("back").addEventListener("click", () => { page -= 1; show(); });
  element("next").addEventListener("click", () => { page += 1; show(); });
  element("tools").hidden = false;
  show();
})();
