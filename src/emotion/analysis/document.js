"use strict";
(() => {
  const NUMBER = /[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/i;

  function sortKey(row, column, numeric) {
    const text = row.cells[column].firstChild?.textContent.trim() ?? "";
    if (!numeric) return text;
    const number = text.match(NUMBER);
    return number ? Number(number[0].replaceAll(",", "")) : NaN;
  }

  // Cells without a value come last in ascending and in descending order.
  function sort(header) {
    const numeric = header.classList.contains("r");
    const direction = header.ariaSort === "ascending" ? -1 : 1;
    const body = header.closest("table").tBodies[0];
    const keyed = Array.from(body.rows, (row) => [sortKey(row, header.cellIndex, numeric), row]);
    const missing = (key) => key === "" || Number.isNaN(key);
    const compare = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    keyed.sort(([a], [b]) => missing(a) - missing(b) || direction * compare(a, b));
    body.append(...keyed.map(([, row]) => row));
    for (const other of header.parentElement.cells) other.ariaSort = "none";
    header.ariaSort = direction === 1 ? "ascending" : "descending";
  }

  const dialog = document.querySelector("dialog");
  function enlarge(image) {
    const enlarged = dialog.querySelector("img");
    enlarged.src = image.src;
    enlarged.alt = image.alt;
    dialog.showModal();
    dialog.scrollTo(0, 0);
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }
  for (const button of document.querySelectorAll("figure button")) {
    button.addEventListener("click", () => enlarge(button.firstElementChild));
  }
  dialog.addEventListener("click", () => dialog.close());

  // Not every browser unfolds <details> for a link to its content.
  function unfold(hash) {
    const target = document.getElementById(decodeURIComponent(hash.slice(1)));
    const folded = [];
    for (let at = target?.closest("details"); at; at = at.parentElement.closest("details")) if (!at.open) folded.push(at);
    for (const details of folded) details.open = true;
    if (folded.length) target.scrollIntoView();
  }
  for (const link of document.querySelectorAll('a[href^="#"]')) link.addEventListener("click", () => unfold(link.hash));
  addEventListener("hashchange", () => unfold(location.hash));
  unfold(location.hash);

  // Folded content would be missing on paper.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
