// Keys for the buttons that name them (data-key). In a field for text, and with Ctrl, Alt or Meta, keys are the browser's.
(() => {
  document.documentElement.classList.add("keys");
  const places = { KeyQ: "q", KeyW: "w", KeyE: "e", NumpadEnter: "Enter" }; // also on a keyboard with other letters
  for (let digit = 0; digit < 4; digit++) places[`Digit${digit}`] = places[`Numpad${digit}`] = String(digit);
  const button = (key) => document.querySelector(`[data-key="${CSS.escape(key)}"]`);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
    const at = event.target;
    if (at.matches("textarea, input:not([type=radio])")) {
      if (event.key === "Escape") at.blur();
      return;
    }
    if (event.key === "Enter" && at.matches("a, button, summary")) return;
    const found = button(event.key.toLowerCase()) ?? button(event.key) ?? button(places[event.code] ?? "");
    if (!found) return;
    event.preventDefault();
    if (found.matches("input")) {
      found.checked = true;
      found.focus({ preventScroll: true });
    } else found.click();
  });

  // A form is sent once.
  document.addEventListener("submit", (event) => {
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "yes";
  });
  addEventListener("pageshow", () => document.querySelectorAll("form").forEach((form) => delete form.dataset.sent));
})();
