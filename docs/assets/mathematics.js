// Render what pymdownx.arithmatex (generic mode) left between \( \) or \[ \]; KaTeX is in this very folder.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const [, opening, formula] = element.textContent.trim().match(/^\\([[(])([\s\S]*)\\[\])]$/);
    katex.render(formula, element, { displayMode: opening === "[", throwOnError: false });
  }
});
