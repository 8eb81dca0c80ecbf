output "chart_pools" {
  description = "What the chart's value `pools` has to say of each pool with GPUs to come onto its machines. A node has one GPU, or one part of one."

  # What a pool does not have is left out: the chart takes an empty value for a set one.
  value = [
    for name in sort(keys(var.gpu_pools)) : merge(
      {
        name         = name
        nodeSelector = { "strongroom.dev/pool" = google_container_node_pool.gpu[name].name }
        gpu = merge(
          { class = var.gpu_pools[name].accelerator_type, count = 1 },
          { for profile in var.gpu_pools[name].mig_partition[*] : "migProfile" => profile },
          { for clients in var.gpu_pools[name].time_sharing_clients[*] : "timeSlicing" => { clients = clients } },
        )
      },
      { for spot in [true] : "spot" => true if var.gpu_pools[name].spot },
    )
  ]
}
