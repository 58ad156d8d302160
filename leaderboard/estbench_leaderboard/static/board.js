// What makes the pages quicker to use. Everything works without it.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("live");

  // The theme: the button shows itself only where it can do something.
  const button = document.getElementById("theme");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* it lasts for this page */ }
    });
  }

  // Titles as a word beside what one points at, also for the keyboard and a finger; Escape closes it.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  let at = null;
  const close = () => {
    if (at) at.title = at.dataset.title;
    if (at) delete at.dataset.title;
    at = null;
    tip.hidden = true;
  };
  const open = (target) => {
    const next = target instanceof Element ? target.closest("main [title]") : null;
    if (at && (at === next || (target instanceof Element && at.contains(target)))) return;
    close();
    if (!next || !next.title) return;
    at = next;
    tip.textContent = at.dataset.title = at.title;
    at.removeAttribute("title"); // or the browser shows it as well
    tip.hidden = false;
    const place = at.getBoundingClientRect();
    const left = Math.min(Math.max(8, place.left), innerWidth - tip.offsetWidth - 8);
    const above = place.top - tip.offsetHeight - 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : place.bottom + 6}px`;
  };
  for (const kind of ["pointerover", "focusin", "click"]) addEventListener(kind, (event) => open(event.target));
  addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  addEventListener("scroll", close, { passive: true, capture: true });
  const reachable = () => { for (const sign of document.querySelectorAll("main abbr[title]")) sign.tabIndex = 0; };

  // Filters: the same page is fetched under the form's address, and its results take the place of those here.
  const PARTS = ["header.site .tools a", "nav.tabs", "nav.uses", "#results", "form.weights", "#figure", ".cite"];
  const form = document.querySelector("form.filters");
  if (form) {
    let newest = 0;
    const show = async (address) => {
      const mine = ++newest;
      try {
        const response = await fetch(address, { headers: { accept: "text/html" } });
        if (!response.ok) throw new Error(response.status);
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        const fresh = page.getElementById("results");
        if (mine !== newest) return;
        close();
        for (const part of PARTS) {
          const [old, now] = [document.querySelector(part), page.querySelector(part)];
          if (old && now) old.replaceWith(document.adoptNode(now));
        }
        const link = page.querySelector("link[rel=canonical]");
        history.replaceState(null, "", link ? new URL(link.href).pathname + new URL(link.href).search : address);
        watch();
      } catch {
        location.assign(address);
      }
    };
    const address = () => {
      const values = new URLSearchParams();
      for (const [key, value] of new FormData(form)) if (value) values.append(key, value);
      return `${form.getAttribute("action")}?${values}`;
    };
    let timer = 0;
    const soon = (milliseconds) => {
      clearTimeout(timer);
      timer = setTimeout(() => show(address()), milliseconds);
    };
    form.addEventListener("input", (event) => soon(event.target.type === "search" ? 200 : 0));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      soon(0);
    });
  }

  // Comparison: two to six models, also over several pages of results.
  const chosen = new Set();
  function watch() {
    reachable();
    for (const link of document.querySelectorAll(".cite a.name")) link.textContent = link.href; // whole, to be copied
    const pick = document.querySelector("form.pick");
    const line = pick?.querySelector(".compare");
    if (!line) return;
    const [submit, words] = [line.querySelector("button"), line.querySelector("span")];
    const first = words.textContent;
    const boxes = [...pick.querySelectorAll("input[name=m]")];
    const count = () => {
      const n = chosen.size;
      submit.disabled = n < 2;
      line.classList.toggle("some", n > 0);
      words.textContent = n ? words.dataset[n === 1 ? "one" : "other"].replace("#", n) : first;
      for (const box of boxes) box.disabled = n >= 6 && !box.checked;
    };
    for (const box of boxes) {
      if (box.checked) chosen.add(box.value);
      box.checked = chosen.has(box.value);
    }
    pick.addEventListener("change", ({ target }) => {
      if (target.checked) chosen.add(target.value);
      else chosen.delete(target.value);
      count();
    });
    pick.addEventListener("submit", (event) => {
      event.preventDefault();
      location.assign(`${pick.getAttribute("action")}?m=${[...chosen].map(encodeURIComponent).join(",")}`);
    });
    count();
  }
  watch();
})();
