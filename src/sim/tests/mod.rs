mod golden;
mod model;
mod rules;
mod theory;
