"use strict";
const veils = Array.from(document.querySelectorAll(".veil"));
const toggle = document.getElementById("reveal");

function show(veil, shown) {
  veil.setAttribute("aria-pressed", String(shown));
}

function label() {
  const all = veils.every((veil) => veil.getAttribute("aria-pressed") === "true");
  toggle.setAttribute("aria-pressed", String(all));
  toggle.textContent = all ? "Blur all pictures" : "Reveal all pictures";
}

if (toggle) {
  for (const veil of veils) {
    veil.addEventListener("click", () => {
      show(veil, veil.getAttribute("aria-pressed") !== "true");
      label();
    });
  }
  toggle.addEventListener("click", () => {
    const shown = toggle.getAttribute("aria-pressed") !== "true";
    veils.forEach((veil) => show(veil, shown));
    label();
  });
}

// On paper nothing can be clicked: details are opened while printing. Blurred pictures stay so.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = Array.from(document.querySelectorAll("details:not([open])"));
  opened.forEach((details) => { details.open = true; });
});
window.addEventListener("afterprint", () => {
  opened.forEach((details) => { details.open = false; });
});
