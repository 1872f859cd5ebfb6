(function () {
  "use strict";

  function number(cell) {
    var text = cell.getAttribute("data-sort");
    return text === null ? null : parseFloat(text);
  }

  // Numbers by size and before everything that has none, in either direction; the rest as text.
  function ordered(rows, column, down) {
    return rows.sort(function (x, y) {
      var a = number(x.cells[column]), b = number(y.cells[column]);
      if (a !== null && b !== null) return down ? b - a : a - b;
      if (a !== null || b !== null) return a !== null ? -1 : 1;
      var order = x.cells[column].textContent.localeCompare(y.cells[column].textContent);
      return down ? -order : order;
    });
  }

  document.querySelectorAll("table").forEach(function (table) {
    var heads = table.querySelectorAll("thead th"), body = table.tBodies[0];
    heads.forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        var rows = Array.from(body.rows), before = head.getAttribute("aria-sort");
        var numeric = rows.some(function (row) { return number(row.cells[column]) !== null; });
        var down = before === null ? numeric : before === "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        ordered(rows, column, down).forEach(function (row) { body.appendChild(row); });
      });
    });
  });

  function quoted(text) {
    // A leading apostrophe keeps spreadsheets from running a cell as a formula.
    var safe = /^[=+@\t\r-]/.test(text) && isNaN(parseFloat(text)) ? "'" + text : text;
    return '"' + safe.replace(/"/g, '""') + '"';
  }

  document.querySelectorAll("button.csv").forEach(function (button) {
    button.addEventListener("click", function () {
      var table = button.parentElement.querySelector("table");
      var lines = Array.from(table.rows).map(function (row) {
        return Array.from(row.cells).map(function (cell) { return quoted(cell.textContent); }).join(",");
      });
      var link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(["\ufeff" + lines.join("\r\n")], { type: "text/csv" }));
      link.download = table.getAttribute("data-name") + ".csv";
      link.click();
      // Slow devices start reading long after the click.
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 60000);
    });
  });

  var opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (part) { part.open = false; });
  });
})();
