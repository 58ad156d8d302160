// What makes the pages quicker to use. Everything works without it.
(() => {
  "use strict";

  // The theme: the button shows itself only where it can do something.
  const button = document.getElementById("theme");
  if (button) {
    const dark = () => {
      const chosen = document.documentElement.dataset.theme;
      return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      const theme = dark() ? "light" : "dark";
      document.documentElement.dataset.theme = theme;
      try { localStorage.setItem("theme", theme); } catch { /* it lasts for this page */ }
    });
  }

  // Filters: the same page is fetched under the form's URL, and its results take the place of those here.
  const form = document.querySelector("form.filters");
  const results = document.getElementById("results");
  if (form && results) {
    let newest = 0;
    const show = async (url, remember) => {
      const mine = ++newest;
      try {
        const response = await fetch(url, { headers: { accept: "text/html" } });
        if (!response.ok) throw new Error(response.status);
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        const fresh = page.getElementById("results");
        if (mine !== newest || !fresh) return;
        document.getElementById("results").replaceWith(document.adoptNode(fresh));
        if (remember) history.pushState(null, "", url);
        watch();
      } catch {
        location.assign(url);
      }
    };
    const address = () => {
      const values = new URLSearchParams();
      for (const [key, value] of new FormData(form)) if (value) values.append(key, value);
      const query = values.toString();
      return form.getAttribute("action") + (query ? `?${query}` : "");
    };
    let timer = 0;
    form.addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => show(address(), true), event.target.type === "search" ? 250 : 0);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(timer);
      show(address(), true);
    });
    addEventListener("popstate", () => location.reload());
  }

  // Comparison: two to six models, and a word when there are too few or too many.
  function watch() {
    const pick = document.querySelector("form.pick");
    if (!pick) return;
    const submit = pick.querySelector("button[type=submit]");
    const boxes = [...pick.querySelectorAll("input[name=m]")];
    const count = () => {
      const chosen = boxes.filter((box) => box.checked).length;
      submit.disabled = chosen < 2;
      for (const box of boxes) box.disabled = chosen >= 6 && !box.checked;
    };
    pick.addEventListener("change", count);
    pick.addEventListener("submit", (event) => {
      event.preventDefault();
      const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
      location.assign(`${pick.getAttribute("action")}?m=${chosen.map(encodeURIComponent).join(",")}`);
    });
    count();
  }
  watch();
})();
