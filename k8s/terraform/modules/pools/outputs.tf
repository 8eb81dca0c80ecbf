output "gpu_pool_names" {
  description = "Names of the pools with GPUs, for the chart."
  value       = sort([for pool in google_container_node_pool.gpu : pool.name])
}

output "chart_pools" {
  description = "What the chart has to say to reach each pool: the node selector, the taint that it tolerates, and the GPUs of one machine."
  value = {
    for name, pool in var.gpu_pools : name => {
      node_selector = { "strongroom.dev/pool" = name }
      toleration    = { key = "strongroom.dev/pool", operator = "Equal", value = name, effect = "NoSchedule" }
      gpus          = pool.accelerator_count
      spot          = pool.spot
    }
  }
}
