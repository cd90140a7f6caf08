"use strict";
(() => {
  const keyOf = (row, place) => {
    const cell = row.cells[place];
    return cell.hasAttribute("data-key") ? cell.dataset.key : cell.textContent;
  };

  const sort = (table, place, direction) => {
    const head = table.tHead.rows[0].cells[place];
    const numeric = head.classList.contains("number");
    const sign = direction === "ascending" ? 1 : -1;
    // A number keeps the spelling of where it comes from: 12, 1e-7, inf, -Infinity.
    const number = (text) => Number(text.replace(/^(-?)inf$/, "$1Infinity"));
    const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row, place), row]);
    rows.sort(([a], [b]) => {
      // What is missing or not a number comes last in both directions.
      if (a === "" || b === "") return (a === "") - (b === "");
      if (numeric) return sign * (number(a) < number(b) ? -1 : number(a) > number(b) ? 1 : 0);
      return sign * a.localeCompare(b, undefined, { numeric: true });
    });
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      head.querySelector("button").addEventListener("click", () => {
        sort(table, place, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
      });
    });
  }

  const follow = (figure) => {
    const svg = figure.querySelector(":scope > svg");
    const data = JSON.parse(figure.querySelector("script").textContent);
    const cursor = svg.querySelector(".cursor");
    const label = figure.querySelector(".at");
    const values = [...figure.querySelectorAll(".value")];
    let place = -1;
    const show = (next) => {
      place = Math.max(0, Math.min(data.x.length - 1, next));
      cursor.setAttribute("transform", `translate(${data.at[place]} 0)`);
      cursor.setAttribute("visibility", "visible");
      label.textContent = `${figure.dataset.unit} ${data.x[place]}`;
      values.forEach((value, line) => { value.textContent = data.y[line][place]; });
    };
    const leave = () => {
      place = -1;
      cursor.setAttribute("visibility", "hidden");
      label.textContent = label.dataset.last;
      for (const value of values) value.textContent = value.dataset.last;
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      let low = 0;
      let high = data.at.length - 1;
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((data.at[middle] + data.at[middle + 1]) / 2 < x) low = middle + 1;
        else high = middle;
      }
      show(low);
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const last = data.x.length - 1;
      const next = {
        ArrowLeft: place < 0 ? last : place - 1, ArrowRight: place + 1, Home: 0, End: last,
      }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      show(next);
    });
  };
  document.querySelectorAll("figure.chart").forEach(follow);

  const viewer = document.getElementById("viewer");
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const image = button.querySelector("img");
      const large = viewer.querySelector("img");
      large.src = image.src;
      large.alt = image.alt;
      large.className = image.className;
      viewer.querySelector("p").textContent = image.alt;
      viewer.showModal();
    });
  }

  const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -70% 0px" });
  for (const name of links.keys()) seen.observe(document.getElementById(name));
})();
