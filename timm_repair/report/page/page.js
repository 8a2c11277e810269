"use strict";
// Filters and orders what is there already; without it everything is shown.
(() => {
  const FIRST = 12;
  const choice = (name) => document.getElementById("by-" + name);
  const filters = ["population", "class", "order"].map(choice);
  if (filters.some((each) => !each)) return;
  const [population, label, order] = filters;
  const number = (card, name) => Number(card.dataset[name]);
  const orders = {
    size: (a, b) => Math.abs(number(b, "change")) - Math.abs(number(a, "change")),
    down: (a, b) => number(a, "change") - number(b, "change"),
    up: (a, b) => number(b, "change") - number(a, "change"),
    class: (a, b) => number(a, "class") - number(b, "class"),
  };
  const shelves = [...document.querySelectorAll(".shelf")].map((shelf) => ({
    list: shelf.querySelector(".cards"),
    cards: [...shelf.querySelectorAll(".card")],
    count: shelf.querySelector(".count"),
    more: shelf.querySelector(".more"),
    all: false,
  })).filter((shelf) => shelf.list);

  const show = (shelf) => {
    const wanted = shelf.cards.filter((card) =>
      (!population.value || card.dataset.population === population.value) &&
      (!label.value || card.dataset.class === label.value));
    wanted.sort((a, b) => orders[order.value](a, b) || number(a, "place") - number(b, "place"));
    const most = shelf.all ? wanted.length : FIRST;
    shelf.cards.forEach((card) => { card.hidden = true; });
    wanted.forEach((card, place) => { card.hidden = place >= most; shelf.list.append(card); });
    const filtered = population.value || label.value;
    const total = Number(shelf.count.dataset.total);
    const here = shelf.cards.length;
    const seen = Math.min(most, wanted.length);
    shelf.count.textContent = filtered
      ? `${seen} of ${wanted.length} that fit are shown; ${here} of all ${total} are here.`
      : `${seen} of ${here} are shown` + (here < total
        ? `; in all there are ${total}, here are those of every class that changed most.` : ".");
    shelf.more.hidden = wanted.length <= FIRST;
    shelf.more.textContent = shelf.all ? "Show fewer" : `Show all ${wanted.length}`;
    shelf.more.setAttribute("aria-expanded", String(shelf.all));
  };
  shelves.forEach((shelf) => {
    shelf.more.addEventListener("click", () => { shelf.all = !shelf.all; show(shelf); });
    show(shelf);
  });
  filters.forEach((each) => each.addEventListener("change", () => shelves.forEach(show)));
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  for (const image of document.querySelectorAll(".card img, .row img")) {
    const sharpen = () => {
      if (image.naturalWidth && image.naturalWidth <= 64) image.parentElement.classList.add("pixels");
    };
    if (image.complete) sharpen(); else image.addEventListener("load", sharpen);
  }
})();
