// Formulas stand in the pages as LaTeX, inline in span.arithmatex and displayed in div.arithmatex; KaTeX sets them.
for (const element of document.querySelectorAll(".arithmatex")) {
  const latex = element.textContent.trim().slice(2, -2); // without \( and \), or \[ and \]
  katex.render(latex, element, { displayMode: element.tagName === "DIV", throwOnError: false, strict: false });
}
