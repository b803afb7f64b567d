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
  const show = () => view.signal("shown", boxes.filter((box) => box.checked).map((box) => box.value)).runAsync();
  boxes.forEach((box) => box.addEventListener("change", show));
  const range = fieldset.querySelector("input[type=range]");
  range.addEventListener("input", () => {
    fieldset.querySelector("output").textContent = range.value;
    view.signal("first", Number(range.value)).runAsync();
  });
}

async function draw() {
  for (const { name, spec } of JSON.parse(document.getElementById("figures").textContent)) {
    if (narrow) {
      spec.config.axisY.labelLimit = 130;
      spec.config.legend.columns = 2;
    }
    const { view } = await vegaEmbed(document.getElementById(name), spec, options);
    const fieldset = document.querySelector(`fieldset[data-figure="${name}"]`);
    if (fieldset) control(view, fieldset);
  }
  document.documentElement.dataset.drawn = "yes";
}

draw();
