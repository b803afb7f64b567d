"use strict";
// Charts are drawn as SVG in the page's own colours, so that dark mode and printing need no script.
// `ast` has Vega interpret its expressions, which the page's security policy allows where `eval` isn't.
const narrow = window.matchMedia("(max-width: 600px)").matches;
const options = {
  renderer: "svg",
  ast: true,
  actions: false,
  defaultStyle: false,
  tooltip: { disableDefaultStyle: true },
};

function control(view, fieldset) {
  const boxes = [...fieldset.querySelectorAll("input[type=checkbox]")];
  const show = ({ target }) => {
    const shown = boxes.filter((box) => box.checked).map((box) => box.value);
    // Without any arm there are no axes: the last one stays.
    if (shown.length) view.signal("shown", shown).runAsync();
    else target.checked = true;
  };
  boxes.forEach((box) => box.addEventListener("change", show));
  const range = fieldset.querySelector("input[type=range]");
  range?.addEventListener("input", () => {
    fieldset.querySelector("output").textContent = range.value;
    view.signal("first", Number(range.value)).runAsync();
  });
}

async function draw() {
  for (const { name, spec } of JSON.parse(document.getElementById("figures").textContent)) {
    if (narrow) {
      // Names may take half of the width, and only what they need of it.
      spec.config.axisY.labelLimit = Math.round(0.55 * document.body.clientWidth);
      spec.config.axis.labelFontSize = 11;
      // A title that is wider than its axis grows towards the names, where there is room.
      spec.config.axisX.titleAnchor = "end";
      spec.config.legend.columns = Math.max(1, Math.floor(spec.config.legend.columns / 2));
    }
    const { view } = await vegaEmbed(document.getElementById(name), spec, options);
    const fieldset = document.querySelector(`fieldset[data-figure="${name}"]`);
    if (fieldset) control(view, fieldset);
  }
  document.documentElement.dataset.drawn = "yes";
}

// What is folded isn't printed.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details.numbers:not([open])")];
  folded.forEach((part) => { part.open = true; });
});
window.addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));

draw();
