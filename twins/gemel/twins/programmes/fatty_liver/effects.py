"""What stages, pressure and drugs do to the hazards: ratios from the literature, none estimated here.

Only effects whose interval excludes no effect are carried. A ratio is applied in full for as long as a plan gives the drug.
"""

from __future__ import annotations

import numpy as np

# Death by stage against F0, adjusted: Ng CH et al., Clin Gastroenterol Hepatol 2023;21:931 (14 studies, 17,301 patients),
# abstract: F2 1.46 (1.08 to 1.98), F3 1.96 (1.41 to 2.72), F4 3.66 (2.65 to 5.05). F1 is not in the abstract: kept at 1.
DEATH_BY_STAGE = np.array([1.0, 1.0, 1.46, 1.96, 3.66])

# For 10 mm Hg less systolic pressure: Ettehad D et al., Lancet 2016;387:957 (123 trials, 613,815 people), abstract. Its
# coronary heart disease stands for infarction; atrial fibrillation was not among its outcomes.
BY_PRESSURE = {
    "death": 0.87,
    "heart_failure": 0.72,
    "myocardial_infarction": 0.83,
    "stroke": 0.73,
}

# Statins, for 1 mmol/L less LDL cholesterol: Cholesterol Treatment Trialists, Lancet 2005;366:1267 (14 trials), abstract.
# GLP-1 receptor agonists in type 2 diabetes: Diabetes Obes Metab 2020;22:203 (seven trials), abstract, odds ratios, of
# events rare enough to be taken for hazard ratios; heart failure (0.93, 0.83 to 1.04) is not carried.
BY_DRUG = {
    "statin": {"death": 0.88, "myocardial_infarction": 0.77, "stroke": 0.83},
    "glp_1_receptor_agonist": {"death": 0.90, "myocardial_infarction": 0.91, "stroke": 0.86},
}

# Diabetes with a lifestyle programme whose goal was 7 % of weight: Diabetes Prevention Program, N Engl J Med 2002;346:393,
# abstract: 58 % fewer (48 to 66). Its people had a raised glucose; smaller losses count in proportion, larger ones no more.
DIABETES_BY_WEIGHT, ITS_WEIGHT_LOSS = 0.42, 0.07
